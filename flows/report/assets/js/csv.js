'use strict';
// Records as CSV, saved as a file of the reader's.
const csv = (() => {
  // Spreadsheets evaluate text that starts with one of these as a formula.
  const disarm = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const write = (value) => quote(typeof value === 'string' ? disarm(value) : String(value ?? ''));
  const save = (rows, name) => {
    const text = rows.map((row) => `${row.map(write).join(',')}\n`).join('');
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  return {save};
})();
