// The views with their columns, and the macros: a word is put into the query where the cursor is.
((page) => {
  const {find, make} = page;
  const query = find('query');

  const insert = (text) => {
    query.setRangeText(text, query.selectionStart, query.selectionEnd, 'end');
    query.focus();
  };
  const makeList = (rows) => {
    const list = make('dl');
    for (const [name, kind, comment] of rows) {
      const term = make('dt', '', name);
      if (kind) term.append(' ', make('span', '', kind));
      list.append(term, make('dd', '', comment));
    }
    return list;
  };
  const fold = (title, note, rows, word) => {
    const box = make('details');
    box.append(make('summary', '', title));
    if (note) box.append(make('p', 'note', note));
    if (word) {
      const put = make('button', '', 'Put into the query');
      put.type = 'button';
      put.setAttribute('aria-label', `Put ${word} into the query`);
      put.addEventListener('click', () => insert(word));
      box.append(put);
    }
    box.append(makeList(rows));
    return box;
  };

  page.showViews = async () => {
    const found = await page.ask('views');
    const rows = (view) => view.columns.map(({name, kind, comment}) => [name, kind, comment]);
    find('views').append(
      ...found.views.map((view) => fold(view.name, view.comment, rows(view), view.name)),
      fold('macros', '', found.macros.map(({call, comment}) => [call, '', comment])),
    );
    find('views-said').hidden = true;
  };
})(report);
