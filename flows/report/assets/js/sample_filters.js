// The filters of the list: what the controls say, which samples they let through, and how an address holds them.
((report) => {
  const {find, make, sampleData} = report;
  if (!sampleData) return;
  const {arms, labels, datasets, categories, verdicts, samples, hasFlips} = sampleData;
  const {nameVerdict} = report.sampleView;

  const SELECTS = ['dataset', 'category', 'harm', 'verdict', 'arm'];
  const addOption = (id, value, text) => {
    const option = make('option', '', text);
    option.value = value;
    find(id).append(option);
  };
  // Names of the verdicts in each list of them, for harmless and harmful samples.
  const named = [false, true].map((harmful) => verdicts.map((own) => own.map((one) => nameVerdict(harmful, one))));
  const kinds = new Set();
  for (const sample of samples) {
    for (const arm of arms.keys()) {
      if (sample.has(arm)) for (const one of sample.verdicts(arm)) kinds.add(nameVerdict(sample.harmful, one));
    }
  }
  for (const name of datasets) addOption('dataset', name, name);
  for (const name of categories) if (name) addOption('category', name, name);
  for (const name of kinds) addOption('verdict', name, name.replace('_', ' '));
  labels.forEach((label, arm) => {
    addOption('arm', String(arm), label);
    addOption('reference', String(arm), label);
  });
  find('category').closest('p').hidden = !categories.some((name) => name);

  const read = () => ({
    words: find('search').value.trim().toLowerCase(),
    changed: find('changed').checked,
    flipped: find('flipped').checked,
    ...Object.fromEntries(SELECTS.map((id) => [id, find(id).value])),
  });
  const isMatch = (filter, sample, arm) =>
    sample.has(arm) &&
    (filter.arm === '' || Number(filter.arm) === arm) &&
    (filter.verdict === '' || named[Number(sample.harmful)][sample.set(arm)].includes(filter.verdict));
  const select = (filter, restricted) =>
    samples.filter(
      (one) =>
        (restricted === null || restricted.has(one)) &&
        (filter.dataset === '' || one.dataset === filter.dataset) &&
        (filter.category === '' || one.category === filter.category) &&
        (filter.harm === '' || one.harmful === (filter.harm === 'harmful')) &&
        (!filter.changed || one.changed) &&
        (!filter.flipped || one.flipped) &&
        ((filter.arm === '' && filter.verdict === '') || labels.some((_, arm) => isMatch(filter, one, arm))) &&
        (filter.words === '' || sampleData.includes(one, filter.words)),
    );

  const clear = () => {
    find('search').value = '';
    for (const id of SELECTS) find(id).value = '';
    for (const id of ['changed', 'flipped']) find(id).checked = false;
  };
  // Fields of an address such as `#verdict=unsafe&arm=2&search=how%20to`; '' without a filter.
  const write = () => {
    const fields = [['search', find('search').value], ...SELECTS.map((id) => [id, find(id).value])];
    if (find('changed').checked) fields.push(['changed', '1']);
    if (hasFlips && !find('flipped').checked) fields.push(['flipped', '0']);
    return fields.flatMap(([name, value]) => (value ? [`${name}=${encodeURIComponent(value)}`] : [])).join('&');
  };
  // A value that the page does not have is no filter.
  const restore = (fields) => {
    clear();
    find('search').value = fields.get('search') ?? '';
    for (const id of SELECTS) {
      find(id).value = fields.get(id) ?? '';
      if (find(id).selectedIndex < 0) find(id).value = '';
    }
    find('changed').checked = fields.get('changed') === '1';
    find('flipped').checked = hasFlips && fields.get('flipped') !== '0';
  };
  find('flipped').closest('p').hidden = !hasFlips;
  find('flipped').checked = hasFlips;

  report.sampleFilters = {SELECTS, read, isMatch, select, clear, write, restore};
})(report);
