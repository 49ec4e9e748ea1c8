// A scatter plot on a canvas: shapes, axes, arrows and outlines. It knows nothing of samples.
//   report.plot.SHAPES       how many shapes and colours can be told apart; the last stands for all others
//   report.plot.swatch(canvas, kind, filled)  draws one shape for a legend
//   report.plot.draw(canvas, scene)   draws {points: [{x, y, kind, filled}], labels, arrows: [[from, to]], marked, focus,
//                                     outline}; sets px and py of each point, in CSS pixels
((report) => {
  const TURN = 2 * Math.PI;
  const polygon = (corners, turned, inner = 1) => (context, x, y, size) => {
    const steps = inner === 1 ? corners : 2 * corners;
    for (let step = 0; step < steps; step += 1) {
      const reach = size * (step % 2 ? inner : 1);
      const angle = turned + (TURN * step) / steps;
      context.lineTo(x + reach * Math.sin(angle), y - reach * Math.cos(angle));
    }
    context.closePath();
  };
  // Of the same area, about.
  const SHAPES = [
    [(context, x, y, size) => context.arc(x, y, size, 0, TURN), 1],
    [polygon(4, TURN / 8), 1.3],
    [polygon(3, 0), 1.4],
    [polygon(4, 0), 1.35],
    [polygon(3, TURN / 2), 1.4],
    [polygon(5, 0, 0.42), 1.6],
    [polygon(6, TURN / 12), 1.1],
    [polygon(4, 0, 0.35), 1.7],
  ];
  // In pixels where the page's text has 16, which is larger on wide screens. Smaller where there are many points.
  const TEXT = 16;
  const [LARGE, SMALL] = [4.2, 2.8];
  const MANY = 1500;
  const MARGIN = {left: 58, right: 14, top: 12, bottom: 46};

  // The page's colours as they are now: a property holds those of light and of dark.
  const readTheme = (canvas) => {
    const read = (name) => {
      canvas.style.color = `var(--${name})`;
      return getComputedStyle(canvas).color;
    };
    return {
      ink: read('ink'),
      quiet: read('quiet'),
      line: read('line'),
      accent: read('accent'),
      colors: SHAPES.map((_, place) => read(`kind-${place + 1}`)),
    };
  };
  // Sizes in CSS pixels, on as many of the screen's as there are.
  const prepare = (canvas) => {
    const {width, height} = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [width, height].map((length) => Math.max(1, Math.round(length * ratio)));
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return {context, width, height, unit: parseFloat(getComputedStyle(canvas).fontSize) / TEXT};
  };
  const drawShape = (context, theme, {px, py, kind, filled}, size) => {
    const [trace, scale] = SHAPES[kind];
    context.beginPath();
    trace(context, px, py, size * scale);
    context.strokeStyle = theme.colors[kind];
    context.fillStyle = theme.colors[kind];
    context.lineWidth = 1.4;
    if (filled) context.fill();
    context.stroke();
  };
  const niceStep = (range) => {
    const rough = range / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  };
  const spread = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (!(high > low)) return [Number.isFinite(low) ? low - 1 : -1, Number.isFinite(low) ? low + 1 : 1];
    const room = 0.04 * (high - low);
    return [low - room, high + room];
  };
  const drawAxes = (context, theme, box, ranges, labels, unit) => {
    context.font = `${12 * unit}px system-ui, sans-serif`;
    context.fillStyle = theme.quiet;
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    ranges.forEach(([low, high], axis) => {
      const step = niceStep(high - low);
      for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
        const text = String(Number(value.toPrecision(4))).replace('-', '−');
        const share = (value - low) / (high - low);
        context.beginPath();
        if (axis === 0) {
          const x = box.left + share * box.width;
          context.moveTo(x, box.top);
          context.lineTo(x, box.top + box.height);
          context.textAlign = 'center';
          context.textBaseline = 'top';
          context.fillText(text, x, box.top + box.height + 6 * unit);
        } else {
          const y = box.top + (1 - share) * box.height;
          context.moveTo(box.left, y);
          context.lineTo(box.left + box.width, y);
          context.textAlign = 'right';
          context.textBaseline = 'middle';
          context.fillText(text, box.left - 6 * unit, y);
        }
        context.stroke();
      }
    });
    context.textAlign = 'center';
    context.textBaseline = 'bottom';
    context.fillText(labels[0], box.left + box.width / 2, box.top + box.height + (MARGIN.bottom - 4) * unit);
    context.save();
    context.translate(2, box.top + box.height / 2);
    context.rotate(-TURN / 4);
    context.textBaseline = 'top';
    context.fillText(labels[1], 0, 0);
    context.restore();
  };
  const drawArrow = (context, from, to) => {
    const [across, down] = [to.px - from.px, to.py - from.py];
    const length = Math.hypot(across, down);
    if (length < 1) return;
    const angle = Math.atan2(down, across);
    context.beginPath();
    context.moveTo(from.px, from.py);
    context.lineTo(to.px, to.py);
    for (const side of [-0.4, 0.4]) {
      context.moveTo(to.px, to.py);
      context.lineTo(to.px - 7 * Math.cos(angle + side), to.py - 7 * Math.sin(angle + side));
    }
    context.stroke();
  };
  const drawOutline = (context, theme, corners) => {
    context.beginPath();
    for (const [x, y] of corners) context.lineTo(x, y);
    context.closePath();
    context.setLineDash([5, 4]);
    context.strokeStyle = theme.accent;
    context.lineWidth = 1.5;
    context.stroke();
    context.setLineDash([]);
  };

  const draw = (canvas, {points, labels, arrows, marked, focus, outline}) => {
    const theme = readTheme(canvas);
    const {context, width, height, unit} = prepare(canvas);
    const box = {
      left: MARGIN.left * unit,
      top: MARGIN.top * unit,
      width: Math.max(1, width - (MARGIN.left + MARGIN.right) * unit),
      height: Math.max(1, height - (MARGIN.top + MARGIN.bottom) * unit),
    };
    const ranges = [spread(points.map((one) => one.x)), spread(points.map((one) => one.y))];
    drawAxes(context, theme, box, ranges, labels, unit);
    for (const one of points) {
      one.px = box.left + (box.width * (one.x - ranges[0][0])) / (ranges[0][1] - ranges[0][0]);
      one.py = box.top + box.height * (1 - (one.y - ranges[1][0]) / (ranges[1][1] - ranges[1][0]));
    }
    const size = unit * (points.length > MANY ? SMALL : LARGE);
    context.strokeStyle = theme.quiet;
    context.lineWidth = 0.8;
    context.globalAlpha = arrows.length > 200 ? 0.35 : 0.8;
    for (const [from, to] of arrows) drawArrow(context, from, to);
    for (const one of points) {
      context.globalAlpha = marked && !marked(one) ? 0.15 : 0.75;
      drawShape(context, theme, one, size);
    }
    context.globalAlpha = 1;
    if (focus) {
      drawShape(context, theme, focus, 1.5 * LARGE * unit);
      context.beginPath();
      context.arc(focus.px, focus.py, 2.6 * LARGE * unit, 0, TURN);
      context.strokeStyle = theme.ink;
      context.lineWidth = 2;
      context.stroke();
    }
    if (outline) drawOutline(context, theme, outline);
  };
  const swatch = (canvas, kind, filled) => {
    const {context, width, height} = prepare(canvas);
    drawShape(context, readTheme(canvas), {px: width / 2, py: height / 2, kind, filled}, LARGE);
  };
  report.plot = {SHAPES: SHAPES.length, draw, swatch};
})(report);
