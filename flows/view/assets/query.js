// Asks a query, turns the pages of its rows, and draws a chart of them. One request at a time; Stop ends it, here and there.
((page) => {
  const {find, make} = page;
  // Rows of a page, as the server sends them.
  const PAGE = 100;
  let result = null;
  let columns = [];
  let start = 0;
  let asking = null;

  page.ask = async (address, options = {}) => {
    const answer = await fetch(address, options);
    const isJson = (answer.headers.get('content-type') || '').startsWith('application/json');
    const content = isJson ? await answer.json() : {error: await answer.text()};
    if (!answer.ok) throw new Error(content.error);
    return content;
  };

  const showFault = (text) => {
    find('fault').textContent = text;
    find('fault').hidden = !text;
  };
  const setBusy = (busy) => {
    find('go').disabled = busy;
    find('stop').disabled = !busy;
    find('result').setAttribute('aria-busy', String(busy));
  };
  // Does one piece of work at a time; what was stopped says so.
  const work = async (said, does) => {
    if (asking) return;
    asking = new AbortController();
    setBusy(true);
    showFault('');
    find('said').textContent = said;
    try {
      await does(asking.signal);
      find('said').textContent = '';
    } catch (error) {
      find('said').textContent = error.name === 'AbortError' ? 'Stopped.' : '';
      if (error.name !== 'AbortError') showFault(error.message);
    } finally {
      asking = null;
      setBusy(false);
    }
  };

  const fill = (select, options) => {
    select.replaceChildren(...options.map(([value, text]) => {
      const option = make('option', '', text);
      option.value = value;
      return option;
    }));
  };
  const offerCharts = () => {
    const named = columns.map(({name}, place) => [String(place), name]);
    const numeric = named.filter((_, place) => columns[place].numeric);
    fill(find('x'), named);
    fill(find('y'), numeric.length ? numeric : named);
    fill(find('by'), [['', 'none'], ...named]);
    // The last number, over the first column, is what most queries are about.
    if (numeric.length) find('y').value = numeric[numeric.length - 1][0];
  };
  const link = (id, address) => { find(id).href = address; };

  const run = () => work('Asking …', async (signal) => {
    find('result').hidden = true;
    const query = find('query').value;
    history.replaceState(null, '', `#q=${encodeURIComponent(query)}`);
    const found = await page.ask('queries', {
      method: 'POST',
      headers: {'content-type': 'application/json'},
      body: JSON.stringify({query, run: find('run').value || null}),
      signal,
    });
    result = found.id;
    ({columns} = found);
    start = 0;
    page.showRows(columns, found);
    offerCharts();
    find('warning').textContent = found.warning;
    find('warning').hidden = !found.warning;
    link('csv', `queries/${result}/rows.csv`);
    link('parquet', `queries/${result}/rows.parquet`);
    find('chart').replaceChildren();
    find('drawn').textContent = '';
    find('result').hidden = false;
  });
  const turn = (to) => work('Reading rows …', async (signal) => {
    const found = await page.ask(`queries/${result}?start=${to}`, {signal});
    start = to;
    page.showRows(columns, found);
  });
  const draw = () => work('Drawing …', async (signal) => {
    const [kind, x, y, by] = ['kind', 'x', 'y', 'by'].map((id) => find(id).value);
    const found = await page.ask(`queries/${result}/chart?x=${x}&y=${y}&by=${by}`, {signal});
    const names = {x: columns[x].name, y: columns[y].name, by: by === '' ? '' : columns[by].name};
    page.drawChart(find('chart'), {...found, shape: kind, names});
    const cut = found.more ? ` The first ${found.most.toLocaleString('en')} rows alone: GROUP BY or USING SAMPLE shows all.` : '';
    find('drawn').textContent = `${found.points.length.toLocaleString('en')} points.${cut}`;
  });

  find('ask').addEventListener('submit', (event) => { event.preventDefault(); run(); });
  find('plot').addEventListener('submit', (event) => { event.preventDefault(); draw(); });
  find('stop').addEventListener('click', () => asking?.abort());
  find('first').addEventListener('click', () => turn(0));
  find('previous').addEventListener('click', () => turn(Math.max(0, start - PAGE)));
  find('next').addEventListener('click', () => turn(start + PAGE));
  const jump = () => {
    const row = Math.floor(Number(find('place').value));
    if (row >= 1) turn(Math.floor((row - 1) / PAGE) * PAGE);
  };
  find('jump').addEventListener('click', jump);
  find('place').addEventListener('keydown', (event) => { if (event.key === 'Enter') jump(); });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') asking?.abort();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });

  // A query in the address is shown, and runs when somebody runs it.
  const given = new URLSearchParams(location.hash.slice(1)).get('q');
  if (given !== null) find('query').value = given;
  page.showViews().catch((error) => { find('views-said').textContent = error.message; });
})(report);
