// The map of the final states: which points are shown, pointed at and chosen, and the controls beside it.
(({find, make, makeText, maps, plot, samples: answers, sampleData, sampleView}) => {
  if (!maps) return;

  const canvas = find('states-canvas');
  const OTHER = plot.SHAPES - 1;
  const REACH = 14;
  const MOST_LISTED = 200;
  const keyOf = (sample) => JSON.stringify([sample.dataset, sample.id]);
  const answered = (sample) => answers?.find(sample.dataset, sample.id);
  // Only what a page without the sample's answers must say itself is in the map's data.
  const known = (sample) => answered(sample) ?? sample;
  const count = (number, noun) => `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;

  let map = null;
  let kinds = [];
  let points = [];
  let shown = [];
  let focus = null;
  let corner = null;
  let outline = null;
  let chosen = null;
  const hiddenGroups = new Set();
  const hiddenKinds = new Set();

  const verdictOf = (sample, group) => {
    const found = answered(sample);
    const {arm} = map.groups[group];
    if (!found || arm === null || !found.has(arm)) return 'no answer here';
    const verdict = found.verdicts(arm).find(([judge]) => judge === find('states-judge').value);
    return verdict ? sampleView.nameVerdict(found.harmful, verdict).replace('_', ' ') : 'not judged';
  };
  const COLORS = {
    condition: ['condition', (_, group) => map.groups[group].name],
    verdict: ['verdict', verdictOf],
    harm: ['harmful or harmless', (sample) => (known(sample).harmful ? 'harmful' : 'harmless')],
    category: ['category', (sample) => known(sample).category || 'no category'],
    dataset: ['data set', (sample) => sample.dataset],
  };
  const isByGroup = () => find('states-color').value === 'condition';
  const nameKind = (sample, group) => COLORS[find('states-color').value][1](sample, group);

  const addOption = (select, value, text) => {
    const option = makeText('option', '', text);
    option.value = value;
    select.append(option);
  };
  const say = (text) => {
    find('states-status').textContent = text;
  };

  // Values by how often they occur; those that have no shape of their own share the last.
  const countKinds = () => {
    const found = new Map();
    map.groups.forEach((_, group) => {
      for (const sample of map.samples) {
        const name = nameKind(sample, group);
        found.set(name, (found.get(name) ?? 0) + 1);
      }
    });
    const sorted = isByGroup() ? [...found] : [...found].sort((one, other) => other[1] - one[1]);
    if (sorted.length <= plot.SHAPES) return sorted.map(([name]) => name);
    return [...sorted.slice(0, OTHER).map(([name]) => name), null];
  };
  const labelKind = (kind) => kinds[kind] ?? 'all others';
  const place = () => {
    const block = Number(find('states-block').value);
    for (const one of points) [one.x, one.y] = map.place(block, one.group, one.sample);
  };
  const makePoints = () => {
    kinds = countKinds();
    const numbers = new Map(kinds.map((name, kind) => [name, kind]));
    points = map.groups.flatMap((_, group) =>
      map.samples.map((sample, index) => ({
        group,
        sample: index,
        kind: numbers.get(nameKind(sample, group)) ?? OTHER,
        filled: Boolean(known(sample).harmful),
      })),
    );
    place();
  };
  const isShown = (one) => !hiddenGroups.has(one.group) && !hiddenKinds.has(one.kind);
  const listArrows = () => {
    if (!find('states-lines').checked) return [];
    const at = new Map(shown.map((one) => [one.group * map.samples.length + one.sample, one]));
    return shown.flatMap((one) => {
      const {plain} = map.groups[one.group];
      const from = plain === null ? undefined : at.get(plain * map.samples.length + one.sample);
      return from && (chosen === null || chosen.has(one.sample)) ? [[from, one]] : [];
    });
  };

  const hideTip = () => {
    find('states-tip').hidden = true;
  };
  const showTip = (one) => {
    const sample = map.samples[one.sample];
    const found = answered(sample);
    const box = found ? answers.describe(found) : make('div', 'card');
    if (!found) {
      box.append(makeText('strong', '', `${sample.dataset} · ${sample.id}`));
      if (sample.question) box.append(makeText('p', '', sample.question));
      box.append(make('p', 'mark', 'no answer on this page'));
    }
    box.append(makeText('p', 'mark', describeKind(one)));
    const tip = find('states-tip');
    tip.replaceChildren(box);
    tip.hidden = false;
    const room = canvas.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, one.px + 14))}px`;
    const below = one.py + 14;
    tip.style.top = `${below + tip.offsetHeight > canvas.clientHeight ? Math.max(0, one.py - 14 - tip.offsetHeight) : below}px`;
  };
  const describeKind = (one) => {
    const name = map.groups[one.group].name;
    return isByGroup() ? name : `${name}: ${labelKind(one.kind)}`;
  };
  const draw = () => {
    const [first, second] = map.explained[Number(find('states-block').value)].map((share) => Math.round(100 * share));
    plot.draw(canvas, {
      points: shown,
      labels: [`first principal component (${first} %)`, `second principal component (${second} %)`],
      arrows: listArrows(),
      marked: chosen && ((one) => chosen.has(one.sample)),
      focus,
      outline: outline ?? (corner && focus && rectangle(corner, focus)),
    });
  };
  const rectangle = (one, other) => [
    [one.px, one.py],
    [other.px, one.py],
    [other.px, other.py],
    [one.px, other.py],
  ];
  const writeTable = () => {
    if (!find('states-table').open) return;
    const rows = map.groups.flatMap((group, number) => {
      const own = shown.filter((one) => one.group === number);
      return (isByGroup() ? [own] : kinds.map((_, kind) => own.filter((one) => one.kind === kind)))
        .filter((some) => some.length)
        .map((some) => {
          const row = make('tr');
          const head = makeText('th', '', describeKind(some[0]));
          head.scope = 'row';
          const means = ['x', 'y'].map((axis) => some.reduce((sum, one) => sum + one[axis], 0) / some.length);
          const numbers = [some.length.toLocaleString('en'), ...means.map((mean) => mean.toPrecision(4))];
          row.append(head, ...numbers.map((text) => make('td', 'number', text.replace('-', '−'))));
          return row;
        });
    });
    find('states-table').querySelector('tbody').replaceChildren(...rows);
  };
  const refresh = () => {
    shown = points.filter(isShown);
    if (focus && !isShown(focus)) focus = null;
    corner = focus && corner;
    find('states-number').textContent = String(map.blocks[Number(find('states-block').value)]);
    draw();
    writeTable();
  };

  const addToggle = (fieldset, hidden, number, text, kind, total) => {
    const box = make('input');
    box.type = 'checkbox';
    box.checked = !hidden.has(number);
    box.addEventListener('change', () => {
      if (box.checked) hidden.delete(number);
      else hidden.add(number);
      hideTip();
      refresh();
    });
    const field = make('label');
    field.append(box);
    if (kind !== null) field.append(make('canvas'));
    field.append(makeText('span', '', text), make('span', 'count', total.toLocaleString('en')));
    fieldset.append(field);
  };
  const writeLegends = () => {
    for (const id of ['states-groups', 'states-kinds']) {
      for (const one of find(id).querySelectorAll('label')) one.remove();
    }
    map.groups.forEach((group, number) => {
      const kind = isByGroup() ? (kinds.indexOf(group.name) < 0 ? OTHER : kinds.indexOf(group.name)) : null;
      addToggle(find('states-groups'), hiddenGroups, number, group.name, kind, map.samples.length);
    });
    find('states-kinds').hidden = isByGroup();
    if (!isByGroup()) {
      kinds.forEach((_, kind) => {
        const total = points.filter((one) => one.kind === kind).length;
        addToggle(find('states-kinds'), hiddenKinds, kind, labelKind(kind), kind, total);
      });
    }
    drawSwatches();
  };
  const drawSwatches = () => {
    for (const field of document.querySelectorAll('.legends fieldset:not([hidden])')) {
      field.querySelectorAll('label').forEach((label, number) => {
        const own = label.querySelector('canvas');
        if (!own) return;
        const group = map.groups[number];
        const kind = field.id === 'states-groups' ? kinds.indexOf(group.name) : number;
        plot.swatch(own, kind < 0 ? OTHER : kind, true);
      });
    }
  };

  const open = (one) => {
    const sample = map.samples[one.sample];
    if (answered(sample)) answers.show(sample.dataset, sample.id);
    else say(`Sample ${sample.id} of ${sample.dataset} has no answer on this page.`);
  };
  const choose = (some) => {
    chosen = some === null ? null : new Set(some.map((one) => one.sample));
    const own = chosen === null ? [] : [...chosen].map((index) => map.samples[index]);
    const listed = own.filter(answered);
    if (answers) answers.restrict(chosen === null ? null : listed, 'chosen on the map of states');
    find('states-clear').disabled = chosen === null;
    find('states-chosen').hidden = chosen === null;
    find('states-count').textContent = own.length.toLocaleString('en');
    find('states-chosen').querySelector('ul').replaceChildren(...own.slice(0, MOST_LISTED).map(makeItem));
    const without = own.length - listed.length;
    const said = without && answers ? `, ${without.toLocaleString('en')} of them without an answer on this page` : '';
    say(chosen === null ? '' : `${count(own.length, 'sample')} chosen${said}${listed.length ? '; the answers below are theirs' : ''}.`);
    draw();
  };
  const makeItem = (sample) => {
    const item = make('li');
    const name = `${sample.dataset} · ${sample.id}`;
    if (answered(sample)) {
      const button = makeText('button', '', name);
      button.type = 'button';
      button.addEventListener('click', () => answers.show(sample.dataset, sample.id));
      item.append(button);
    } else item.append(makeText('span', '', name));
    if (sample.question) item.append(makeText('span', 'mark', sample.question));
    return item;
  };
  const holds = (corners, {px, py}) => {
    let inside = false;
    corners.forEach(([x, y], place) => {
      const [otherX, otherY] = corners[(place + 1) % corners.length];
      if (y > py !== otherY > py && px < x + ((otherX - x) * (py - y)) / (otherY - y)) inside = !inside;
    });
    return inside;
  };
  const chooseWithin = (corners) => {
    const found = shown.filter((one) => holds(corners, one));
    if (found.length) choose(found);
    else say('No point lies in there.');
  };
  const nearest = (x, y) => {
    let best = null;
    let least = REACH;
    for (const one of shown) {
      const away = Math.hypot(one.px - x, one.py - y);
      if (away <= least) [best, least] = [one, away];
    }
    return best;
  };
  const pointAt = (one) => {
    focus = one;
    draw();
    if (one) showTip(one);
    else hideTip();
  };

  // With the pointer: a click opens, a drag draws around points.
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let pressed = null;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    pressed = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    const [x, y] = at(event);
    if (pressed === null) {
      const found = nearest(x, y);
      if (found !== focus) pointAt(found);
      return;
    }
    if (outline === null && Math.hypot(x - pressed[0], y - pressed[1]) < 5) return;
    hideTip();
    outline = [...(outline ?? [pressed]), [x, y]];
    draw();
  });
  const release = (event) => {
    if (pressed === null) return;
    const drawn = outline;
    pressed = null;
    outline = null;
    if (event.type === 'pointercancel') draw();
    else if (drawn) chooseWithin(drawn);
    else {
      const found = nearest(...at(event));
      if (!found) return;
      pointAt(found);
      open(found);
    }
    draw();
  };
  canvas.addEventListener('pointerup', release);
  canvas.addEventListener('pointercancel', release);
  canvas.addEventListener('pointerleave', () => {
    if (pressed === null && document.activeElement !== canvas) pointAt(null);
  });

  // With the keyboard.
  const DIRECTIONS = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]};
  const towards = ([right, down]) => {
    if (!focus) return shown[0] ?? null;
    let best = focus;
    let least = Infinity;
    for (const one of shown) {
      const [x, y] = [one.px - focus.px, one.py - focus.py];
      const along = x * right + y * down;
      const across = Math.abs(x * down) + Math.abs(y * right);
      // Within half a right angle to either side; further aside counts more.
      if (along > 0.5 && across <= along && along + 2 * across < least) [best, least] = [one, along + 2 * across];
    }
    return best;
  };
  const step = (by) => {
    const place = shown.indexOf(focus);
    if (place < 0) return shown[by > 0 ? 0 : shown.length - 1] ?? null;
    return shown[(place + by + shown.length) % shown.length];
  };
  const goTo = (one) => {
    pointAt(one);
    if (!one) return;
    const sample = map.samples[one.sample];
    const place = [one.x, one.y].map((number) => number.toPrecision(3).replace('-', '−')).join(', ');
    say(`${sample.dataset} · ${sample.id}, ${describeKind(one)}, at ${place}`);
  };
  canvas.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in DIRECTIONS) goTo(towards(DIRECTIONS[event.key]));
    else if (event.key === ']') goTo(step(1));
    else if (event.key === '[') goTo(step(-1));
    else if (event.key === 'Home') goTo(shown[0] ?? null);
    else if (event.key === 'End') goTo(shown[shown.length - 1] ?? null);
    else if (event.key === 'Enter' && focus) open(focus);
    else if (event.key === ' ' && focus) {
      if (corner) {
        // With the points on its edge.
        const [[left, right], [top, bottom]] = ['px', 'py'].map((axis) => [corner[axis], focus[axis]].sort((a, b) => a - b));
        corner = null;
        choose(shown.filter((one) => one.px >= left && one.px <= right && one.py >= top && one.py <= bottom));
      } else {
        corner = focus;
        say('One corner is set: go to another point and press Space.');
      }
    } else if (event.key === 'Escape') {
      if (corner) corner = null;
      else if (chosen) choose(null);
      pointAt(null);
    } else return;
    event.preventDefault();
  });
  canvas.addEventListener('blur', () => {
    corner = null;
    pointAt(null);
  });

  const describeMap = () => {
    const blocks = map.blocks.length;
    const drawn = map.samples.length < map.total ? `${map.samples.length.toLocaleString('en')} of ` : '';
    find('states-note').textContent =
      `${drawn}${count(map.total, map.split)} with states, in ${map.groups.length} groups, at ${count(blocks, 'block')}. ` +
      'Principal components of the states that no intervention touched, of each block by itself; the share of variance in ' +
      'brackets. The sign of a component means nothing: from the last block to the first, each is turned so that its ' +
      'coordinates agree with those at the block after it.';
    find('states-number').textContent = '';
  };
  const recolor = () => {
    find('states-judge-field').hidden = find('states-color').value !== 'verdict';
    hiddenKinds.clear();
    focus = null;
    hideTip();
    makePoints();
    writeLegends();
    refresh();
  };
  const setMap = (number) => {
    const last = map === null ? 1 : Number(find('states-block').value) / Math.max(1, map.blocks.length - 1);
    map = maps[number];
    if (chosen !== null) choose(null);
    say('');
    hiddenGroups.clear();
    find('states-block').disabled = map.blocks.length === 1;
    find('states-block').max = String(map.blocks.length - 1);
    find('states-block').value = String(Math.round(last * (map.blocks.length - 1)));
    find('states-lines').closest('p').hidden = map.groups.every((one) => one.plain === null);
    describeMap();
    recolor();
  };

  const several = new Set(maps.map((one) => one.model)).size > 1;
  maps.forEach((one, number) => {
    const sets = one.datasets.length > 1 ? `all ${one.datasets.length} data sets` : one.datasets[0];
    addOption(find('states-set'), String(number), `${several ? `${one.model}: ` : ''}${sets}, ${one.split}s`);
  });
  const judges = new Set((sampleData?.verdicts ?? []).flatMap((own) => own.map(([judge]) => judge)));
  for (const judge of judges) addOption(find('states-judge'), judge, judge);
  for (const [name, [label]] of Object.entries(COLORS)) {
    if (name !== 'verdict' || judges.size) addOption(find('states-color'), name, label);
  }
  find('states-set').addEventListener('change', () => setMap(Number(find('states-set').value)));
  for (const id of ['states-color', 'states-judge']) find(id).addEventListener('change', recolor);
  find('states-block').addEventListener('input', () => {
    place();
    refresh();
    if (focus) showTip(focus);
  });
  find('states-lines').addEventListener('change', draw);
  find('states-table').addEventListener('toggle', writeTable);
  find('states-choose').addEventListener('click', () => choose(shown));
  find('states-clear').addEventListener('click', () => choose(null));
  find('states-controls').addEventListener('submit', (event) => event.preventDefault());

  find('states-map').hidden = false;
  for (const figure of document.querySelectorAll('figure[id^="figure-states-"]')) {
    if (/^figure-states-\d+$/.test(figure.id)) figure.classList.add('printed');
  }
  setMap(0);
  // The first report is of the size at which all points have just been drawn.
  const measure = () => {
    const {width, height} = canvas.getBoundingClientRect();
    return `${width} × ${height}`;
  };
  let drawn = measure();
  new ResizeObserver(() => {
    if (drawn === measure()) return;
    drawn = measure();
    draw();
    drawSwatches();
  }).observe(canvas);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    draw();
    drawSwatches();
  });
})(report);
