// Elements of one sample: its picture, question, verdicts and answers side by side.
((report) => {
  const {make, makeText, sampleData} = report;
  if (!sampleData) return;
  const {arms, labels, prepare, textOf, pictureOf, verdicts} = sampleData;

  const GOOD = ['safe', 'correct'];
  const BAD = ['unsafe', 'incorrect', 'refused', 'parse_error'];
  const WHY = {missing: 'image missing', 'left out': 'no room for the image'};
  const START = 160;

  const several = new Set(verdicts.flatMap((own) => own.map(([judge]) => judge))).size > 1;
  // Displayed verdict: a harmless question that was answered is not called `safe` but `answered`.
  const nameVerdict = (harmful, [, verdict, refused]) =>
    verdict === 'safe' && !harmful ? (refused ? 'refused' : 'answered') : verdict;
  const makeChip = (sample, verdict) => {
    const [judge, , , score] = verdict;
    const name = nameVerdict(sample.harmful, verdict);
    const mood = GOOD.includes(name) ? ' good' : BAD.includes(name) ? ' bad' : '';
    const shown = name.replace('_', ' ');
    const words = score === null ? shown : `${shown} ${Number(score.toFixed(3))}`;
    return make('span', `chip${mood}`, several ? `${judge}: ${words}` : words);
  };

  // Sensitive pictures are blurred until the reader asks for them: by the setting, or by this button.
  const makePicture = (sample, unblurred) => {
    const picture = pictureOf(sample);
    if (!picture) return null;
    if (picture.lost) return make('p', 'thumb lost', WHY[picture.lost] ?? picture.lost);
    const image = make('img');
    image.src = picture.uri;
    image.alt = `Image of ${sample.dataset} · ${sample.id}`;
    if (!sample.harmful) {
      const plain = make('p', 'thumb');
      plain.append(image);
      return plain;
    }
    const button = make('button', 'thumb');
    button.type = 'button';
    const set = (shown) => {
      button.setAttribute('aria-pressed', String(shown));
      button.setAttribute('aria-label', `${shown ? 'Blur' : 'Show'} the image of ${sample.dataset} · ${sample.id}`);
    };
    set(unblurred);
    button.addEventListener('click', () => set(button.getAttribute('aria-pressed') === 'false'));
    button.append(image);
    return button;
  };

  const noteCut = (box, what, whole) => {
    if (whole) {
      const length = whole.toLocaleString('en');
      box.append(make('p', 'mark', `… truncated; the whole ${what} has ${length} characters`));
    }
  };
  // The text, with what differs from the reference marked, and a word on how it compares.
  const makeAnswerText = (answer, reference) => {
    const text = makeText('p');
    if (!reference || reference.arm === answer.arm || !reference.text) {
      text.textContent = answer.text;
      return [text];
    }
    const name = labels[reference.arm];
    if (reference.text === answer.text) {
      text.textContent = answer.text;
      return [text, makeText('p', 'mark', `same as ${name}`)];
    }
    const steps = report.compareTexts(reference.text, answer.text);
    if (!steps) {
      text.textContent = answer.text;
      return [text, makeText('p', 'mark', `unlike ${name}`)];
    }
    const tags = {added: 'ins', removed: 'del'};
    text.append(...steps.map(([kind, words]) => (tags[kind] ? make(tags[kind], '', words) : words)));
    return [text];
  };
  const makeReplies = (sample, answer) => {
    const replies = sample.verdicts(answer.arm).map(([judge], place) => [judge, answer.raws[place]]);
    const given = replies.filter(([, raw]) => raw);
    if (!given.length) return [];
    const fold = make('details', 'replies');
    fold.append(make('summary', 'mark', 'judge’s reply'));
    for (const [judge, raw] of given) fold.append(makeText('p', '', several ? `${judge}: ${raw}` : raw));
    return [fold];
  };
  const makeAnswer = (sample, answer, {marked, reference}) => {
    const box = make('div', marked(sample, answer.arm) ? 'answer match' : 'answer');
    const head = makeText('h4', '', labels[answer.arm]);
    head.append(...sample.verdicts(answer.arm).map((verdict) => makeChip(sample, verdict)));
    box.append(head);
    if (answer.trace) {
      const fold = make('details');
      fold.append(make('summary', 'mark', 'reasoning trace'), makeText('p', '', answer.trace));
      noteCut(fold, 'trace', answer.wholeTrace);
      box.append(fold);
    }
    if (answer.text) box.append(...makeAnswerText(answer, reference));
    else box.append(make('p', 'mark', answer.trace ? 'no final answer' : 'empty answer'));
    noteCut(box, 'answer', answer.whole);
    box.append(...makeReplies(sample, answer));
    return box;
  };
  const makeStrip = (sample, open) => {
    const strip = make('ul', 'strip');
    for (const arm of arms.keys()) {
      if (!open.has(arm) || !sample.has(arm)) continue;
      const item = makeText('li', '', `${labels[arm]} `);
      item.append(...sample.verdicts(arm).map((verdict) => makeChip(sample, verdict)));
      strip.append(item);
    }
    return strip;
  };
  // `#sample=DATASET/ID`, both parts percent-encoded.
  const addressOf = ({dataset, id}) => `#sample=${encodeURIComponent(dataset)}/${encodeURIComponent(id)}`;

  const makeBody = (sample, view) => {
    const {question, reference, answers} = textOf(sample);
    const referenceOf = ({arm}) => answers.find((answer) => answer.arm === view.reference(arm));
    const shown = answers.filter((answer) => view.open.has(answer.arm));
    const grid = make('div', 'answers');
    for (const answer of shown) {
      grid.append(makeAnswer(sample, answer, {marked: view.marked, reference: referenceOf(answer)}));
    }
    const body = [makeText('p', 'question', question), grid];
    if (reference) body.splice(1, 0, makeText('p', 'reference', `Reference: ${reference}`));
    return body;
  };

  // `view`: {current, unfolded, unblurred, open: arms shown, reference(arm): the arm that an answer is compared with, or null, marked(sample, arm)}.
  // What the sample shows must have been decoded by `prepare`.
  const makeSample = (sample, view) => {
    const current = sample === view.current;
    const box = make('article', current ? 'sample current' : 'sample');
    const head = make('h3');
    const link = makeText('a', '', `${sample.dataset} · ${sample.id}`);
    link.href = addressOf(sample);
    head.append(link, make('span', 'tag', sample.harmful ? 'harmful' : 'harmless'));
    if (sample.category) head.append(makeText('span', 'tag', sample.category));
    if (sample.changed) head.append(make('span', 'tag', 'verdict changed'));
    if (sample.flipped) head.append(make('span', 'tag', 'flipped between runs'));
    if (sample.distance !== null) head.append(make('span', 'tag', `${sample.distance} along Δ`));
    box.append(head);
    const shown = [...view.open].filter((arm) => sample.has(arm)).length;
    const picture = makePicture(sample, view.unblurred);
    const side = make('div', 'beside');
    const text = make('div', 'text');
    if (sample.harmful) {
      const fold = make('details', 'fold');
      const summary = make('summary', '', `Question and ${shown} ${shown === 1 ? 'answer' : 'answers'}`);
      fold.append(summary);
      // Made when they are looked at: by a click, or as a browser unfolds what it has found.
      const fill = () => {
        if (fold.childElementCount === 1) fold.append(...makeBody(sample, view));
      };
      fold.open = view.unfolded;
      if (fold.open) fill();
      summary.addEventListener('click', fill);
      fold.addEventListener('toggle', fill);
      text.append(fold, makeStrip(sample, view.open));
    } else text.append(...makeBody(sample, view));
    if (picture) side.append(picture);
    side.append(text);
    box.append(side);
    return box;
  };

  // A small element for a pointer that rests on a point of a figure.
  const describe = (sample, view) => {
    const box = make('div', 'card');
    box.append(makeText('strong', '', `${sample.dataset} · ${sample.id}`));
    const fill = () => {
      const picture = makePicture(sample, view.unblurred);
      if (picture) box.append(picture);
      box.append(makeText('p', '', textOf(sample).question.slice(0, START)), makeStrip(sample, view.open));
    };
    const waiting = prepare([sample]);
    if (waiting) waiting.then(fill);
    else fill();
    return box;
  };

  report.sampleView = {nameVerdict, addressOf, makeSample, describe};
})(report);
