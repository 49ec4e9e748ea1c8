// Keys for the list of samples; none of them acts while a word is being typed.
((report) => {
  const {find, samples} = report;
  if (!samples) return;
  const help = find('keys');
  const actions = {
    j: () => samples.step(1),
    k: () => samples.step(-1),
    u: samples.reveal,
    '/': () => find('search').focus(),
    '?': () => help.showModal(),
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || help.open) return;
    // Speech input types whole words: its users turn single keys off.
    if (!find('keys-on').checked) return;
    if (event.target.matches('input:not([type="checkbox"]), select, textarea')) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    const act = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  });
  find('keys-open').addEventListener('click', () => help.showModal());
  find('keys-close').addEventListener('click', () => help.close());
})(report);
