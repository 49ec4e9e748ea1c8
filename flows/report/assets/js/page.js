'use strict';
// What the parts of the page share. Each part is one file, a function that is given this object.
// Text from models and data sets is inserted by textContent and value only, never as HTML.
const report = (() => {
  const find = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const makeText = (tag, name, text) => {
    const element = make(tag, name, text);
    element.dir = 'auto';
    return element;
  };
  const readData = (id) => {
    const source = find(id);
    return source ? JSON.parse(source.textContent) : null;
  };
  return {find, make, makeText, readData};
})();
