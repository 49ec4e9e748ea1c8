// One page of a result's rows as a table. Cells are text, whatever they hold.
((page) => {
  const {find, make, makeText} = page;
  const count = (number) => number.toLocaleString('en');

  const makeHead = (columns) => {
    const row = make('tr');
    const corner = make('th', 'number count', 'row');
    corner.scope = 'col';
    row.append(corner);
    for (const {name, kind, numeric} of columns) {
      const head = makeText('th', numeric ? 'number' : '', name);
      head.scope = 'col';
      head.append(make('span', 'kind', kind));
      row.append(head);
    }
    const body = make('thead');
    body.append(row);
    return body;
  };
  const makeRow = (columns, cells, number) => {
    const row = make('tr');
    const head = make('th', 'number count', count(number));
    head.scope = 'row';
    row.append(head);
    cells.forEach((cell, place) => {
      const kind = columns[place].numeric ? 'number' : '';
      row.append(cell === null ? make('td', `${kind} null`.trim(), 'NULL') : makeText('td', kind, cell));
    });
    return row;
  };

  page.showRows = (columns, {start, rows, more, total}) => {
    const table = make('table');
    const body = make('tbody');
    body.append(...rows.map((cells, place) => makeRow(columns, cells, start + place + 1)));
    table.append(makeHead(columns), body);
    find('rows').replaceChildren(table);
    find('rows').scrollTop = 0;
    const of = total === null ? (more ? ', and more' : '') : ` of ${count(total)}`;
    find('found').textContent = rows.length ? `rows ${count(start + 1)}–${count(start + rows.length)}${of}` : `no rows here${of}`;
    find('first').disabled = find('previous').disabled = start === 0;
    find('next').disabled = !more;
  };
})(report);
