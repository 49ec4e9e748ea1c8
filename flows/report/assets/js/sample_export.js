// The listed samples as CSV: one row for each answer, with every judge's verdict.
((report) => {
  const {sampleData} = report;
  if (!sampleData) return;
  const {labels, verdicts, textOf, prepare} = sampleData;
  const judges = [...new Set(verdicts.flatMap((own) => own.map(([judge]) => judge)))];
  const HEAD = ['dataset', 'sample_id', 'harmful', 'category', 'question', 'reference', 'arm', 'answer', 'truncated'];

  const listAnswers = (sample, open) => {
    const {question, reference, answers} = textOf(sample);
    return answers
      .filter(({arm}) => open.has(arm))
      .map((answer) => {
        const said = new Map(sample.verdicts(answer.arm).map((verdict) => [verdict[0], verdict]));
        return [
          sample.dataset,
          sample.id,
          sample.harmful,
          sample.category,
          question,
          reference,
          labels[answer.arm],
          answer.text,
          answer.whole > 0,
          ...judges.flatMap((judge) => (said.get(judge) ?? [judge, null, null, null]).slice(1)),
        ];
      });
  };
  // `open` are the arms shown.
  report.exportSamples = async (samples, open) => {
    await prepare(samples);
    const head = [...HEAD, ...judges.flatMap((judge) => [`${judge}: verdict`, `${judge}: refused`, `${judge}: score`])];
    csv.save([head, ...samples.flatMap((sample) => listAnswers(sample, open))], 'samples.csv');
  };
})(report);
