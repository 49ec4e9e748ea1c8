// The list of samples: its pages, what is restricted and current in it, and its address.
// `report.samples` is what other parts use; it is missing on a page without answers:
//   all       array of {dataset, id, harmful, category, changed, answers: [{arm, verdicts: [[judge, verdict, refused, score]]}]}
//   arms      array of labels; `arm` of an answer is an index into it
//   find(dataset, id)        the sample; undefined if it was not drawn into the page
//   show(dataset, id)        goes to the sample and opens it; false, and a word on the page, if it was not drawn
//   restrict(samples, label) lists these alone, given as samples or as {dataset, id}; null lifts the restriction
//   describe(sample)         a small element: picture, start of the question, verdict chips
((report) => {
  const {find, make, makeText, sampleData, sampleView, sampleFilters} = report;
  if (!sampleData) return;
  const {arms, labels, samples, prepare, prepareSearch} = sampleData;
  const {addressOf, makeSample} = sampleView;
  const PER_PAGE = 25;
  const SAME_ARM = 'runs';

  const open = new Set(arms.flatMap((arm, number) => (arm.open ? [number] : [])));
  let page = 0;
  // What the filters let through, the sample at hand, the one that was asked for, and the only ones listed.
  let listed = [];
  let current = null;
  let opened = null;
  let restricted = null;
  let boxes = new Map();
  let turns = 0;

  const readReference = () => {
    const {value} = find('reference');
    if (value === SAME_ARM) return (arm) => arms[arm].against;
    const chosen = value === '' ? null : Number(value);
    return () => chosen;
  };
  const view = (filter) => ({
    open,
    unblurred: find('unblur').checked,
    reference: readReference(),
    marked: (sample, arm) => filter.verdict !== '' && sampleFilters.isMatch(filter, sample, arm),
  });
  const count = (number) => number.toLocaleString('en');
  // Of texts or images that cannot be decoded: by a browser without DecompressionStream, or of a file that was cut short.
  const fail = (error) => {
    find('samples').replaceChildren();
    find('samples').removeAttribute('aria-busy');
    find('unreadable').hidden = false;
    console.error(error);
  };
  const draw = (shown, filter) => {
    const shared = view(filter);
    const unfolded = find('unfold').checked;
    boxes = new Map(
      shown.map((one) => {
        const asked = one === opened;
        return [one, makeSample(one, {...shared, current, unfolded: unfolded || asked})];
      }),
    );
    const pages = Math.max(1, Math.ceil(listed.length / PER_PAGE));
    find('samples').replaceChildren(...boxes.values());
    find('samples').removeAttribute('aria-busy');
    find('unreadable').hidden = true;
    find('found').textContent = `${count(listed.length)} of ${count(samples.length)} samples`;
    find('page').textContent = `page ${page + 1} of ${pages}`;
    find('previous').disabled = page === 0;
    find('next').disabled = page >= pages - 1;
    find('columns-count').textContent = `${open.size} of ${arms.length}`;
  };
  // Draws at once where all is decoded; `after` runs once it is drawn, unless something else was asked for meanwhile.
  const show = (after = () => {}) => {
    turns += 1;
    const turn = turns;
    const act = (waiting, next) => {
      if (!waiting) {
        next();
        return;
      }
      find('samples').setAttribute('aria-busy', 'true');
      waiting.then(() => {
        if (turn === turns) next();
      }, fail);
    };
    const filter = sampleFilters.read();
    act(filter.words ? prepareSearch() : null, () => {
      listed = sampleFilters.select(filter, restricted);
      page = Math.min(page, Math.max(0, Math.ceil(listed.length / PER_PAGE) - 1));
      const shown = listed.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
      act(prepare(shown), () => {
        draw(shown, filter);
        after();
      });
    });
  };
  const restart = () => {
    page = 0;
    current = null;
    opened = null;
    find('absent').textContent = '';
    show();
  };

  const restrict = (wanted, label) => {
    const known = wanted && Array.from(wanted, (one) => sampleData.find(one.dataset, one.id)).filter(Boolean);
    restricted = known && new Set(known);
    find('restriction').hidden = restricted === null;
    find('restriction-label').textContent = restricted === null ? '' : label;
    restart();
  };
  const focusCurrent = () => {
    const box = boxes.get(current);
    // Filters that changed meanwhile may have left it out.
    if (!box) return;
    box.scrollIntoView({block: 'nearest', behavior: 'instant'});
    box.querySelector('h3 a').focus({preventScroll: true});
  };
  const goTo = (sample) => {
    current = sample;
    page = Math.floor(listed.indexOf(sample) / PER_PAGE);
    if (boxes.has(sample)) {
      for (const [one, box] of boxes) box.classList.toggle('current', one === sample);
      focusCurrent();
    } else show(focusCurrent);
  };
  const step = (by) => {
    const from = current ? listed.indexOf(current) : page * PER_PAGE - (by > 0 ? 1 : 0);
    const place = Math.min(Math.max(from + by, 0), listed.length - 1);
    if (listed.length) goTo(listed[place]);
  };
  const reveal = () => {
    const sample = current ?? listed[page * PER_PAGE];
    const fold = boxes.get(sample)?.querySelector('.fold');
    if (!fold) return;
    fold.querySelector('summary').click();
    const picture = boxes.get(sample).querySelector('button.thumb');
    if (picture && picture.getAttribute('aria-pressed') !== String(fold.open)) picture.click();
  };

  // Opens a sample among those that the filters let through; lifts them if it is not among these.
  const openSample = (sample) => {
    const filter = sampleFilters.read();
    const land = () => {
      listed = sampleFilters.select(filter, restricted);
      if (!listed.includes(sample)) {
        sampleFilters.clear();
        restrict(null);
        listed = samples;
      }
      current = sample;
      opened = sample;
      page = Math.floor(listed.indexOf(sample) / PER_PAGE);
      find('absent').textContent = '';
      show(() => {
        focusCurrent();
        boxes.get(sample).scrollIntoView({behavior: 'instant'});
      });
    };
    const waiting = filter.words ? prepareSearch() : null;
    if (waiting) waiting.then(land, fail);
    else land();
  };
  const say = (dataset, id) => {
    find('absent').textContent = `Sample ${id} of ${dataset} is not on this page, which shows ${count(samples.length)} samples.`;
    find('absent').scrollIntoView({block: 'center'});
  };

  // The address holds the filters, and the sample that was asked for: `#verdict=unsafe&sample=DATASET/ID`.
  const writeAddress = (sample) => {
    const fields = [sampleFilters.write(), sample ? addressOf(sample).slice(1) : ''].filter((one) => one);
    return `#${fields.join('&')}`;
  };
  const keepAddress = (typed) => {
    const address = writeAddress(null);
    if (address === (location.hash || '#')) return;
    // Words being typed are one step of the history.
    if (typed && history.state === 'typed') history.replaceState('typed', '', address);
    else history.pushState(typed ? 'typed' : null, '', address);
  };
  const showSample = (dataset, id) => {
    const sample = sampleData.find(dataset, id);
    if (!sample) {
      say(dataset, id);
      return false;
    }
    openSample(sample);
    if (writeAddress(sample) !== location.hash) history.pushState(null, '', writeAddress(sample));
    return true;
  };
  const decode = (text) => {
    try {
      return decodeURIComponent(text);
    } catch (error) {
      if (error instanceof URIError) return text;
      throw error;
    }
  };
  const restoreAddress = () => {
    const text = location.hash.slice(1);
    // The name of a section is no state of the list.
    if (text && !text.includes('=')) return;
    const parts = text.split('&').map((part) => /^([^=]*)=?(.*)$/s.exec(part).slice(1));
    sampleFilters.restore(new Map(parts.map(([name, value]) => [name, decode(value)])));
    const asked = parts.find(([name]) => name === 'sample')?.[1];
    if (asked === undefined) {
      restart();
      return;
    }
    const [dataset, ...rest] = asked.split('/');
    const key = [decode(dataset), decode(rest.join('/'))];
    const sample = sampleData.find(...key);
    if (sample) openSample(sample);
    else {
      restart();
      say(...key);
    }
  };

  labels.forEach((label, number) => {
    const box = make('input');
    box.type = 'checkbox';
    box.checked = open.has(number);
    box.addEventListener('change', () => {
      if (box.checked) open.add(number);
      else open.delete(number);
      show();
    });
    const field = make('label');
    field.append(box, makeText('span', '', label));
    find('columns').querySelector('fieldset').append(field);
  });
  const plain = arms.findIndex((arm) => arm.plain && arm.condition === 'image');
  find('reference').value = plain < 0 ? '' : String(plain);
  if (sampleData.hasRuns) {
    const option = make('option', '', 'the first run');
    option.value = SAME_ARM;
    find('reference').append(option);
    find('reference').value = SAME_ARM;
  }

  const filterBy = (typed) => {
    restart();
    keepAddress(typed);
  };
  let timer;
  find('search').addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => filterBy(true), 120);
  });
  for (const id of [...sampleFilters.SELECTS, 'changed', 'flipped']) find(id).addEventListener('change', () => filterBy(false));
  for (const id of ['reference', 'unblur', 'unfold']) find(id).addEventListener('change', () => show());
  find('filters').addEventListener('submit', (event) => {
    event.preventDefault();
    clearTimeout(timer);
    filterBy(true);
  });
  find('samples').addEventListener('click', (event) => {
    const link = event.target.closest('h3 a');
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const [sample] = [...boxes].find(([, box]) => box.contains(link));
    showSample(sample.dataset, sample.id);
  });
  const turnPage = (by) => {
    page += by;
    current = null;
    show(() => find('filters').scrollIntoView());
  };
  find('previous').addEventListener('click', () => turnPage(-1));
  find('next').addEventListener('click', () => turnPage(1));
  find('restriction-lift').addEventListener('click', () => restrict(null));
  find('export').addEventListener('click', () => report.exportSamples(listed, open).catch(fail));
  find('unblur').closest('p').hidden = !sampleData.hasImages;
  find('filters').hidden = false;
  document.querySelector('.pages').hidden = false;
  window.addEventListener('hashchange', restoreAddress);

  report.samples = {
    all: samples,
    arms: labels,
    find: sampleData.find,
    show: showSample,
    restrict,
    describe: (sample) => sampleView.describe(sample, view(sampleFilters.read())),
    step,
    reveal,
  };
  if (location.hash.includes('=')) restoreAddress();
  else show();
})(report);
