'use strict';
// Text from models and data sets is inserted by textContent only, never as HTML.
(() => {
  const {sheet, images, rows} = JSON.parse(document.getElementById('sheet-data').textContent);
  const find = (id) => document.getElementById(id);
  const KINDS = ['u', 's', 'x'];
  const KEY = `cmrm-sheet:${sheet}`;
  const ids = new Set(rows.map((row) => row.id));
  const labels = new Map();
  let at = 0;

  const tell = (text) => {
    find('message').textContent = text;
  };
  const keep = () => {
    const kept = {labels: Object.fromEntries(labels), labeller: find('labeller').value, at};
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
    } catch {
      tell('This browser keeps no progress: export the labels before you close the page.');
    }
  };
  const recall = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}');
      for (const [id, label] of Object.entries(kept.labels ?? {})) {
        if (ids.has(id) && KINDS.includes(label)) labels.set(id, label);
      }
      if (typeof kept.labeller === 'string') find('labeller').value = kept.labeller;
      if (Number.isInteger(kept.at) && kept.at >= 0 && kept.at < rows.length) at = kept.at;
    } catch {
      tell('Earlier progress cannot be read in this browser.');
    }
  };

  const show = () => {
    const row = rows[at];
    find('fold').open = find('unfold').checked;
    find('question').textContent = row.question;
    find('answer').textContent = row.answer || '(empty answer)';
    const shown = [...row.answer].length < row.letters;
    find('cut').textContent = shown ? `Truncated; the whole answer has ${row.letters.toLocaleString('en')} characters.` : '';
    const picture = [];
    if (row.image !== null) {
      const image = document.createElement('img');
      image.src = images[row.image];
      image.alt = 'The image of the request';
      picture.push(image);
    } else if (row.lost) {
      const note = document.createElement('p');
      note.className = 'note';
      note.textContent = 'The image of this request was not found when the sheet was made.';
      picture.push(note);
    }
    find('picture').replaceChildren(...picture);
    mark();
  };
  const mark = () => {
    const given = labels.get(rows[at].id);
    for (const kind of KINDS) find(`label-${kind}`).setAttribute('aria-pressed', String(given === kind));
    find('place').textContent = `Answer ${at + 1} of ${rows.length} · ${labels.size} labelled`;
    find('progress').max = rows.length;
    find('progress').value = labels.size;
  };
  const go = (place) => {
    tell('');
    at = Math.min(Math.max(place, 0), rows.length - 1);
    keep();
    show();
  };
  const give = (kind) => {
    if (!find('fold').open) {
      tell('Read the request and the answer first: Enter unfolds them.');
      return;
    }
    labels.set(rows[at].id, kind);
    if (at === rows.length - 1) {
      keep();
      mark();
    } else go(at + 1);
  };
  const clear = () => {
    labels.delete(rows[at].id);
    keep();
    mark();
  };
  const goToOpen = () => {
    const steps = rows.map((_, step) => (at + 1 + step) % rows.length);
    const place = steps.find((one) => !labels.has(rows[one].id));
    if (place === undefined) tell('Every answer has a label: export them.');
    else go(place);
  };
  const toggle = () => {
    find('fold').open = !find('fold').open;
  };

  const save = () => {
    const labeller = find('labeller').value.trim();
    const labelled = rows.filter((row) => labels.has(row.id));
    const lines = labelled.map((row) => [sheet, row.id, labels.get(row.id), labeller]);
    csv.save([['sheet', 'id', 'label', 'labeller'], ...lines], 'labels.csv');
  };

  const actions = {
    u: () => give('u'),
    s: () => give('s'),
    x: () => give('x'),
    c: clear,
    j: () => go(at + 1),
    k: () => go(at - 1),
    n: goToOpen,
    enter: toggle,
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    // A key means what it says where a name is typed, or a button has the focus.
    const where = event.target;
    if (where.matches('input:not([type])')) return;
    // Speech input types whole words: its users turn single keys off.
    if (!find('shortcuts').checked) return;
    const key = event.key.toLowerCase();
    if (key === 'enter' && where.matches('button, summary, input')) return;
    const act = Object.hasOwn(actions, key) ? actions[key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  });
  for (const kind of KINDS) find(`label-${kind}`).addEventListener('click', () => give(kind));
  find('clear').addEventListener('click', clear);
  find('previous').addEventListener('click', () => go(at - 1));
  find('next').addEventListener('click', () => go(at + 1));
  find('open').addEventListener('click', goToOpen);
  find('export').addEventListener('click', save);
  find('labeller').addEventListener('input', keep);
  find('unfold').addEventListener('change', show);
  recall();
  find('main').hidden = false;
  show();
})();
