// Maps of the final states, decoded when they are first shown.
// `report.maps` is an array of {model, split, datasets, total, samples, groups, blocks, explained, place}; missing without states.
//   samples  array of {dataset, id, harmful, category, question}
//   groups   array of {name, arm, plain}: index of the arm that was answered so, and of the group without intervention, or null
//   place(block, group, sample)  coordinates [x, y]; all three are indices
((report) => {
  const data = report.readData('states-data');
  if (!data) return;

  const samples = data.samples.map(([dataset, id, harmful, category, question]) => ({dataset, id, harmful, category, question}));
  // Little-endian, as on all machines that browsers run on.
  const decode = (text) => new Uint16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  report.maps = data.maps.map(({points, rows, low, step, ...map}) => {
    let numbers = null;
    const place = (block, group, sample) => {
      numbers ??= decode(points);
      const start = 2 * ((block * map.groups.length + group) * rows.length + sample);
      return [0, 1].map((axis) => low[block][axis] + step[block][axis] * numbers[start + axis]);
    };
    const own = rows.map((row) => samples[row]);
    return {...map, samples: own, datasets: [...new Set(own.map((one) => one.dataset))], place};
  });
})(report);
