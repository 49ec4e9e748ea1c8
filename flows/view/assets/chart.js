// A chart of points as SVG: bars, lines or points, one colour a series. Names and values are text.
((page) => {
  const {make} = page;
  const SERIES = 8;
  const MOST_BARS = 200;
  const HEIGHT = 360;
  const EDGE = {top: 12, right: 12, bottom: 56, left: 64};
  const DASHES = ['', '7 4', '2 4', '10 3 2 3'];

  const makeShape = (tag, attributes, text) => {
    const shape = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    if (text !== undefined) shape.textContent = text;
    return shape;
  };
  const colour = (place) => `var(--series-${place % SERIES})`;
  const number = (value) => {
    const size = Math.abs(value);
    return size !== 0 && (size >= 1e7 || size < 1e-3) ? value.toExponential(2) : value.toLocaleString('en', {maximumFractionDigits: 4});
  };
  const time = (value) => {
    const at = new Date(value);
    return Number.isNaN(at.getTime()) ? '' : at.toISOString().slice(0, 16).replace('T', ' ');
  };
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // Round numbers that cover a span; near the largest and the smallest numbers there are, its ends.
  const makeTicks = (low, high, wanted) => {
    const size = Math.max(Math.abs(low), Math.abs(high));
    if (size > 1e300 || (size && size < 1e-300)) return low < high ? [low, high] : [Math.min(0, low), Math.max(0, low)];
    const rough = (high - low || size || 1) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((one) => one * power >= rough) || 10);
    const first = Math.floor(low / step);
    const count = Math.ceil(high / step - first) + 1;
    // Next to a large number a step may be no other number.
    const ticks = new Set(Array.from({length: Math.max(2, count)}, (_, place) => (first + place) * step));
    return ticks.size > 1 ? [...ticks] : [low, high];
  };
  const makeScale = (values, from, to, wanted, show) => {
    const low = values.reduce((least, one) => Math.min(least, one), Infinity);
    const high = values.reduce((most, one) => Math.max(most, one), -Infinity);
    const ticks = makeTicks(low, high, wanted);
    const [first, last] = [ticks[0], ticks[ticks.length - 1]];
    // The span of the largest numbers is none.
    const share = Number.isFinite(last - first) ? 1 : 0.5;
    return {place: (value) => from + ((value * share - first * share) / (last * share - first * share)) * (to - from), ticks, show};
  };
  // A place for each text, in the order of the rows.
  const makeBands = (texts, from, to) => {
    const names = [...new Set(texts)];
    const width = (to - from) / names.length;
    const places = new Map(names.map((name, place) => [name, from + (place + 0.5) * width]));
    const every = Math.ceil(names.length / Math.max(1, (to - from) / 80));
    return {place: (text) => places.get(text), ticks: names.filter((_, place) => place % every === 0), show: (text) => text, width, names};
  };

  const drawAxes = (svg, x, y, names, width) => {
    const [left, bottom] = [EDGE.left, HEIGHT - EDGE.bottom];
    for (const tick of y.ticks) {
      const place = y.place(tick);
      svg.append(
        makeShape('line', {class: 'axis', x1: left, x2: width - EDGE.right, y1: place, y2: place}),
        makeShape('text', {x: left - 8, y: place, 'text-anchor': 'end', 'dominant-baseline': 'middle'}, y.show(tick)),
      );
    }
    const room = Math.max(4, Math.floor((width - left) / x.ticks.length / 7));
    for (const tick of x.ticks) {
      svg.append(makeShape('text', {x: x.place(tick), y: bottom + 18, 'text-anchor': 'middle'}, cut(x.show(tick), room)));
    }
    svg.append(
      makeShape('text', {x: (left + width) / 2, y: HEIGHT - 8, 'text-anchor': 'middle'}, cut(names.x, 80)),
      makeShape('text', {x: 14, y: HEIGHT / 2, 'text-anchor': 'middle', transform: `rotate(-90 14 ${HEIGHT / 2})`}, cut(names.y, 40)),
    );
  };
  const say = (shape, point, x, names) => {
    const [place, value, group] = point;
    shape.append(makeShape('title', {}, [`${names.x}: ${x.show(place)}`, `${names.y}: ${number(value)}`, ...(names.by ? [`${names.by}: ${group}`] : [])].join('\n')));
    return shape;
  };
  const drawBars = (svg, series, x, y, names) => {
    const wide = (x.width * 0.8) / series.length;
    series.forEach(([, points], place) => {
      for (const point of points) {
        const [zero, end] = [y.place(0), y.place(point[1])];
        const left = x.place(point[0]) - x.width * 0.4 + place * wide;
        const bar = makeShape('rect', {class: 'mark', x: left, width: Math.max(1, wide - 1), y: Math.min(zero, end), height: Math.abs(zero - end), fill: colour(place)});
        svg.append(say(bar, point, x, names));
      }
    });
  };
  const drawLines = (svg, series, x, y) => {
    series.forEach(([, points], place) => {
      const corners = points.map(([across, up]) => [x.place(across), y.place(up)]);
      if (!x.names) corners.sort((a, b) => a[0] - b[0]);
      const path = corners.map((corner) => corner.map((one) => one.toFixed(1)).join(',')).join(' ');
      svg.append(makeShape('polyline', {class: 'mark', points: path, fill: 'none', stroke: colour(place), 'stroke-width': 2, 'stroke-dasharray': DASHES[Math.floor(place / 2) % DASHES.length]}));
    });
  };
  const drawPoints = (svg, series, x, y, names) => {
    series.forEach(([, points], place) => {
      for (const point of points) {
        const mark = makeShape('circle', {class: 'mark', cx: x.place(point[0]), cy: y.place(point[1]), r: 3.5, fill: colour(place), 'fill-opacity': 0.75});
        svg.append(say(mark, point, x, names));
      }
    });
  };

  // The last colour is that of all series for which there is none of their own.
  const group = (points) => {
    const series = new Map();
    for (const point of points) {
      const name = series.has(point[2]) || series.size < SERIES - 1 ? point[2] : 'others';
      if (!series.has(name)) series.set(name, []);
      series.get(name).push(point);
    }
    return [...series];
  };
  const makeLegend = (series) => {
    const list = make('ul', 'legend');
    series.forEach(([name], place) => {
      const line = make('li');
      const key = makeShape('svg', {width: 12, height: 12, 'aria-hidden': 'true'});
      key.append(makeShape('rect', {width: 12, height: 12, rx: 2, fill: colour(place)}));
      line.append(key, page.makeText('span', '', name));
      list.append(line);
    });
    return list;
  };

  // Bars of one place and one series lie one over the other.
  const countHidden = (points) => points.length - new Set(points.map(([across, , by]) => JSON.stringify([across, by]))).size;

  page.drawChart = (box, {kind, points, shape, names}) => {
    if (!points.length) {
      box.replaceChildren(make('p', 'note', 'Nothing to draw: no row has numbers in it.'));
      return;
    }
    const asBars = shape === 'bar';
    const texts = asBars || kind === 'text';
    const show = kind === 'time' ? time : kind === 'number' ? number : String;
    const categories = texts ? points.map(([across]) => show(across)) : [];
    if (asBars && new Set(categories).size > MOST_BARS) {
      box.replaceChildren(make('p', 'note', `More than ${MOST_BARS} bars: draw lines or points, or GROUP BY.`));
      return;
    }
    const drawn = texts ? points.map(([, up, by], place) => [categories[place], up, by]) : points;
    const width = Math.max(300, box.clientWidth);
    const svg = makeShape('svg', {width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': cut(`Chart of ${names.y} over ${names.x}`, 200)});
    const ups = drawn.map(([, up]) => up);
    const y = makeScale(asBars ? [0, ...ups] : ups, HEIGHT - EDGE.bottom, EDGE.top, 5, number);
    const x = texts ? makeBands(categories, EDGE.left, width - EDGE.right) : makeScale(drawn.map(([across]) => across), EDGE.left, width - EDGE.right - 20, Math.max(2, Math.floor(width / 140)), show);
    const series = group(drawn);
    drawAxes(svg, x, y, names, width);
    ({bar: drawBars, line: drawLines, scatter: drawPoints})[shape](svg, series, x, y, names);
    box.replaceChildren(svg, ...(names.by ? [makeLegend(series)] : []));
    const hidden = asBars ? countHidden(drawn) : 0;
    if (hidden) box.append(make('p', 'note', `${number(hidden)} bars are hidden behind others of the same place and colour: GROUP BY both, or choose another colour.`));
  };
})(report);
