// Marks how a text differs from another, word by word (E. Myers, An O(ND) difference algorithm, 1986).
((report) => {
  // Texts that take more edits, or share fewer of their words, have no differences worth marking.
  const MOST_EDITS = 120;
  const LEAST_SHARED = 0.3;
  // Words and signs, each with the space behind it, which is not compared.
  const cut = (text) => text.match(/^\s+|(?:[\p{L}\p{N}\p{M}'’]+|[^\s\p{L}\p{N}\p{M}'’])\s*/gu) ?? [];

  // The furthest place on each diagonal after 0, 1, 2 … edits; null beyond `MOST_EDITS`.
  const search = (from, to) => {
    if (Math.abs(from.length - to.length) > MOST_EDITS) return null;
    const most = Math.min(from.length + to.length, MOST_EDITS);
    const reach = new Int32Array(2 * most + 3);
    const rounds = [];
    for (let edits = 0; edits <= most; edits += 1) {
      rounds.push(reach.slice());
      for (let line = -edits; line <= edits; line += 2) {
        const down = line === -edits || (line !== edits && reach[most + line] < reach[most + line + 2]);
        let x = down ? reach[most + line + 2] : reach[most + line] + 1;
        while (x < from.length && x - line < to.length && from[x] === to[x - line]) x += 1;
        reach[most + line + 1] = x;
        if (x >= from.length && x - line >= to.length) return {rounds, most};
      }
    }
    return null;
  };
  const trace = (from, to, {rounds, most}) => {
    const steps = [];
    let x = from.length;
    let y = to.length;
    for (let edits = rounds.length - 1; edits >= 0; edits -= 1) {
      const reach = rounds[edits];
      const line = x - y;
      const down = line === -edits || (line !== edits && reach[most + line] < reach[most + line + 2]);
      const before = down ? line + 1 : line - 1;
      const startX = edits ? reach[most + before + 1] : 0;
      const startY = startX - before;
      const shared = edits && !down ? startX + 1 : startX;
      while (x > shared) {
        x -= 1;
        y -= 1;
        steps.push(['same', to[y]]);
      }
      if (!edits) break;
      if (down) steps.push(['added', to[startY]]);
      else steps.push(['removed', from[startX]]);
      x = startX;
      y = startY;
    }
    return steps.reverse();
  };
  // Runs of one kind as one text; of what stands between two shared words, all that is removed comes first.
  const join = (steps) => {
    const joined = [];
    let [removed, added] = ['', ''];
    const flush = () => {
      if (removed) joined.push(['removed', removed]);
      if (added) joined.push(['added', added]);
      [removed, added] = ['', ''];
    };
    for (const [kind, word] of steps) {
      if (kind === 'removed') removed += word;
      else if (kind === 'added') added += word;
      else {
        flush();
        if (joined.at(-1)?.[0] === 'same') joined.at(-1)[1] += word;
        else joined.push([kind, word]);
      }
    }
    flush();
    return joined;
  };

  // A list of [same, added or removed, text]; null where the two have too little in common.
  report.compareTexts = (before, after) => {
    const [from, to] = [cut(before), cut(after)];
    const found = search(...[from, to].map((all) => all.map((word) => word.trim())));
    if (!found) return null;
    const steps = trace(from, to, found);
    const shared = steps.filter(([kind]) => kind === 'same').length;
    return shared >= LEAST_SHARED * Math.max(from.length, to.length) ? join(steps) : null;
  };
})(report);
