// The list of samples: filters, pages, and each sample's answers side by side.
// `report.samples` is what other parts use; it is missing on a page without answers:
//   all       array of {dataset, id, harmful, category, changed, answers: [{arm, verdicts: [[judge, verdict, refused, score]]}]}
//   arms      array of labels; `arm` of an answer is an index into it
//   find(dataset, id)        the sample; undefined if it was not drawn into the page
//   show(dataset, id)        goes to the sample and opens it; false, and a word on the page, if it was not drawn
//   restrict(samples, label) lists these alone, given as samples or as {dataset, id}; null lifts the restriction
//   describe(sample)         a small element: start of the question and verdict chips
((report) => {
  const {find, make, makeText, readData} = report;
  const data = readData('answers-data');
  if (!data) return;

  const PER_PAGE = 25;
  const GOOD = ['safe', 'correct'];
  const BAD = ['unsafe', 'incorrect', 'refused', 'parse_error'];
  const {arms, samples} = data;
  const labels = arms.map((arm) => (arm.model ? `${arm.model}: ${arm.name}` : arm.name));
  const open = new Set(arms.flatMap((arm, index) => (arm.open ? [index] : [])));
  let page = 0;
  let current = null;
  let restricted = null;
  const keyOf = (one) => JSON.stringify([one.dataset, one.id]);
  const byKey = new Map(samples.map((one) => [keyOf(one), one]));

  const addOption = (select, value, text) => {
    const option = make('option', '', text);
    option.value = value;
    select.append(option);
  };

  const several = new Set(samples.flatMap((one) => one.answers.flatMap((a) => a.verdicts.map((v) => v[0])))).size > 1;
  // Displayed verdict: a harmless question that was answered is not called `safe` but `answered`.
  const nameVerdict = (sample, [, verdict, refused]) =>
    verdict === 'safe' && !sample.harmful ? (refused ? 'refused' : 'answered') : verdict;
  const describe = (sample, verdict) => {
    const [judge, , , score] = verdict;
    const name = nameVerdict(sample, verdict).replace('_', ' ');
    const words = score === null ? name : `${name} ${Number(score.toFixed(3))}`;
    return several ? `${judge}: ${words}` : words;
  };
  const makeChip = (sample, verdict) => {
    const name = nameVerdict(sample, verdict);
    const mood = GOOD.includes(name) ? ' good' : BAD.includes(name) ? ' bad' : '';
    return make('span', `chip${mood}`, describe(sample, verdict));
  };
  const holds = (sample, answer, wanted) =>
    answer.verdicts.some((verdict) => nameVerdict(sample, verdict) === wanted);

  const texts = new Map();
  const textOf = (sample) => {
    if (!texts.has(sample)) {
      const parts = [sample.id, sample.question, ...sample.answers.flatMap((answer) => [answer.text, answer.trace ?? ''])];
      texts.set(sample, parts.join('\n').toLowerCase());
    }
    return texts.get(sample);
  };
  const isMatch = (sample, answer) => {
    const verdict = find('verdict').value;
    const arm = find('arm').value;
    return (arm === '' || answer.arm === Number(arm)) && (verdict === '' || holds(sample, answer, verdict));
  };
  const isFiltered = () => find('verdict').value !== '';
  const select = () => {
    const words = find('search').value.trim().toLowerCase();
    const dataset = find('dataset').value;
    const harm = find('harm').value;
    const changed = find('changed').checked;
    return samples.filter(
      (one) =>
        (restricted === null || restricted.has(one)) &&
        (dataset === '' || one.dataset === dataset) &&
        (harm === '' || one.harmful === (harm === 'harmful')) &&
        (!changed || one.changed) &&
        one.answers.some((answer) => isMatch(one, answer)) &&
        (words === '' || textOf(one).includes(words)),
    );
  };

  const noteCut = (box, what, text, letters) => {
    if (letters > text.length) {
      const length = letters.toLocaleString('en');
      box.append(make('p', 'mark', `… truncated; the whole ${what} has ${length} characters`));
    }
  };
  const makeAnswer = (sample, answer) => {
    const box = make('div', isFiltered() && isMatch(sample, answer) ? 'answer match' : 'answer');
    const head = makeText('h4', '', labels[answer.arm]);
    head.append(...answer.verdicts.map((verdict) => makeChip(sample, verdict)));
    box.append(head);
    if (answer.trace) {
      const fold = make('details');
      fold.append(make('summary', 'mark', 'reasoning trace'), makeText('p', '', answer.trace));
      noteCut(fold, 'trace', answer.trace, answer.traceLetters);
      box.append(fold);
    }
    if (answer.letters) box.append(makeText('p', '', answer.text));
    else box.append(make('p', 'mark', answer.trace ? 'no final answer' : 'empty answer'));
    noteCut(box, 'answer', answer.text, answer.letters);
    return box;
  };
  const makeStrip = (sample, answers) => {
    const strip = make('ul', 'strip');
    for (const answer of answers) {
      const item = makeText('li', '', `${labels[answer.arm]} `);
      item.append(...answer.verdicts.map((verdict) => makeChip(sample, verdict)));
      strip.append(item);
    }
    return strip;
  };
  const addressOf = (one) => `#sample=${encodeURIComponent(one.dataset)}/${encodeURIComponent(one.id)}`;
  const makeSample = (sample) => {
    const box = make('article', sample === current ? 'sample current' : 'sample');
    const head = make('h3');
    const link = makeText('a', '', `${sample.dataset} · ${sample.id}`);
    link.href = addressOf(sample);
    head.append(link);
    head.append(make('span', 'tag', sample.harmful ? 'harmful' : 'harmless'));
    if (sample.category) head.append(makeText('span', 'tag', sample.category));
    if (sample.changed) head.append(make('span', 'tag', 'verdict changed'));
    box.append(head);
    const answers = sample.answers.filter((answer) => open.has(answer.arm));
    const body = [makeText('p', 'question', sample.question)];
    if (sample.reference) body.push(makeText('p', 'reference', `Reference: ${sample.reference}`));
    const grid = make('div', 'answers');
    grid.append(...answers.map((answer) => makeAnswer(sample, answer)));
    body.push(grid);
    if (sample.harmful) {
      const fold = make('details', 'fold');
      fold.open = sample === current || find('unfold').checked;
      fold.append(make('summary', '', `Question and ${answers.length} answers`), ...body);
      box.append(fold, makeStrip(sample, answers));
    } else box.append(...body);
    return box;
  };

  const show = () => {
    const found = select();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const start = page * PER_PAGE;
    find('samples').replaceChildren(...found.slice(start, start + PER_PAGE).map(makeSample));
    find('found').textContent = `${found.length.toLocaleString('en')} of ${samples.length.toLocaleString('en')} samples`;
    find('page').textContent = `page ${page + 1} of ${pages}`;
    find('previous').disabled = page === 0;
    find('next').disabled = page >= pages - 1;
    find('columns-count').textContent = `${open.size} of ${arms.length}`;
  };
  const restart = () => {
    page = 0;
    current = null;
    find('absent').textContent = '';
    show();
  };
  const turn = (step) => {
    page += step;
    show();
    find('filters').scrollIntoView();
  };

  const liftFilters = () => {
    find('search').value = '';
    for (const id of ['dataset', 'harm', 'verdict', 'arm']) find(id).value = '';
    find('changed').checked = false;
    restrict(null);
  };
  const restrict = (wanted, label) => {
    restricted = wanted === null ? null : new Set(Array.from(wanted, (one) => byKey.get(keyOf(one))));
    find('restriction').hidden = restricted === null;
    find('restriction-label').textContent = restricted === null ? '' : label;
    restart();
  };
  const openSample = (sample) => {
    if (!select().includes(sample)) liftFilters();
    current = sample;
    page = Math.floor(select().indexOf(sample) / PER_PAGE);
    find('absent').textContent = '';
    show();
    const box = document.querySelector('.sample.current');
    box.scrollIntoView();
    box.querySelector('h3 a').focus({preventScroll: true});
  };
  const say = (dataset, id) => {
    find('absent').textContent = `Sample ${id} of ${dataset} is not on this page, which shows ${samples.length.toLocaleString('en')} samples.`;
    find('absent').scrollIntoView({block: 'center'});
  };
  const goTo = (dataset, id) => {
    const sample = byKey.get(keyOf({dataset, id}));
    if (sample) openSample(sample);
    else say(dataset, id);
    return sample !== undefined;
  };
  // `#sample=DATASET/ID`, both parts percent-encoded.
  const readAddress = () => {
    const found = /^#sample=([^/]*)\/(.*)$/.exec(location.hash);
    if (!found) return;
    try {
      goTo(decodeURIComponent(found[1]), decodeURIComponent(found[2]));
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
      say(found[1], found[2]);
    }
  };
  const describeSample = (sample) => {
    const box = make('div', 'card');
    box.append(makeText('strong', '', `${sample.dataset} · ${sample.id}`), makeText('p', '', sample.question.slice(0, 160)));
    box.append(makeStrip(sample, sample.answers.filter((answer) => open.has(answer.arm))));
    return box;
  };

  for (const name of new Set(samples.map((one) => one.dataset))) addOption(find('dataset'), name, name);
  const kinds = new Set(
    samples.flatMap((one) => one.answers.flatMap((answer) => answer.verdicts.map((v) => nameVerdict(one, v)))),
  );
  for (const name of kinds) addOption(find('verdict'), name, name.replace('_', ' '));
  labels.forEach((label, index) => {
    addOption(find('arm'), String(index), label);
    const box = make('input');
    box.type = 'checkbox';
    box.checked = open.has(index);
    box.addEventListener('change', () => {
      if (box.checked) open.add(index);
      else open.delete(index);
      show();
    });
    const field = make('label');
    field.append(box, makeText('span', '', label));
    find('columns').querySelector('fieldset').append(field);
  });

  let timer;
  find('search').addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(restart, 120);
  });
  for (const id of ['dataset', 'harm', 'verdict', 'arm', 'changed']) find(id).addEventListener('change', restart);
  find('unfold').addEventListener('change', () => {
    for (const one of document.querySelectorAll('details.fold')) one.open = find('unfold').checked;
  });
  find('filters').addEventListener('submit', (event) => {
    event.preventDefault();
    restart();
  });
  find('previous').addEventListener('click', () => turn(-1));
  find('next').addEventListener('click', () => turn(1));
  find('filters').hidden = false;
  document.querySelector('.pages').hidden = false;
  find('restriction-lift').addEventListener('click', () => restrict(null));
  window.addEventListener('hashchange', readAddress);
  report.samples = {
    all: samples,
    arms: labels,
    find: (dataset, id) => byKey.get(keyOf({dataset, id})),
    show: (dataset, id) => {
      const found = goTo(dataset, id);
      if (found) history.pushState(null, '', addressOf({dataset, id}));
      return found;
    },
    restrict,
    describe: describeSample,
  };
  show();
  readAddress();
})(report);
