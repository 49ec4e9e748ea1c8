// The samples of the page: an index that is there at once; texts and images are decoded in chunks as they are needed.
((report) => {
  const index = report.readData('answers-data');
  if (!index) return;
  const {arms, datasets, categories, verdicts, answers, images, distances, chunk, samples: columns} = index;

  class Sample {
    constructor(number) {
      this.number = number;
      this.dataset = datasets[columns.dataset[number]];
      this.id = columns.id[number];
      this.harmful = columns.harmful[number] === 1;
      this.changed = columns.changed[number] === 1;
      // Between the runs of a page of several.
      this.flipped = columns.flipped[number] === 1;
      this.category = categories[columns.category[number]];
      // Signed, along Δ; null where it is not known.
      this.distance = distances ? distances[number] : null;
    }

    // Made when asked for: a page has a hundred thousand.
    get answers() {
      return arms.flatMap((_, arm) => (this.has(arm) ? [{arm, verdicts: this.verdicts(arm)}] : []));
    }

    // The number of the answer's list of verdicts; -1 without an answer.
    set(arm) {
      return answers[this.number * arms.length + arm];
    }

    has(arm) {
      return this.set(arm) >= 0;
    }

    verdicts(arm) {
      return verdicts[this.set(arm)];
    }
  }

  const samples = columns.id.map((_, number) => new Sample(number));
  const keyOf = (dataset, id) => JSON.stringify([dataset, id]);
  const byKey = new Map(samples.map((one) => [keyOf(one.dataset, one.id), one]));

  // Chunks but the first stand behind the scripts, and may still be on their way.
  const whole = new Promise((done) => {
    if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', done, {once: true});
    else done();
  });
  const read = async (kind, number) => {
    if (number > 0) await whole;
    return report.readData(`answers-${kind}-${number}`);
  };
  const unpack = async (text) => {
    const packed = atob(text);
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < packed.length; place += 1) bytes[place] = packed.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    return JSON.parse(await new Response(stream).text());
  };
  const makeStore = (load) => {
    const ready = new Map();
    const asked = new Map();
    const ask = (number) => {
      if (!asked.has(number)) asked.set(number, load(number).then((value) => ready.set(number, value)));
      return asked.get(number);
    };
    return {ready, ask};
  };
  const texts = makeStore(async (number) => unpack(await read('texts', number)));
  const pictures = makeStore((number) => read('images', number));

  const chunkOf = (number) => Math.floor(number / chunk);
  const imageOf = ({number}) => images[number];
  const lacks = (one) => {
    const image = imageOf(one);
    return [
      ...(texts.ready.has(chunkOf(one.number)) ? [] : [texts.ask(chunkOf(one.number))]),
      ...(typeof image !== 'number' || pictures.ready.has(chunkOf(image)) ? [] : [pictures.ask(chunkOf(image))]),
    ];
  };
  // null where all that samples show is decoded, else a promise of it.
  const prepare = (wanted) => {
    const missing = wanted.flatMap(lacks);
    return missing.length ? Promise.all(missing) : null;
  };
  // `whole` is the number of characters of a text that was truncated, else 0.
  const readAnswer = ([arm, text = '', whole = 0, raws = 0, trace = '', wholeTrace = 0]) => ({
    arm,
    text,
    whole,
    raws: raws || [],
    trace,
    wholeTrace,
  });
  const textOf = ({number}) => {
    const [question, reference, own] = texts.ready.get(chunkOf(number))[number % chunk];
    return {question, reference, answers: own.map(readAnswer)};
  };
  // {uri}, or {lost: why}; null for a sample without an image.
  const pictureOf = (one) => {
    const image = imageOf(one);
    if (image === null) return null;
    if (typeof image !== 'number') return {lost: image};
    return {uri: `data:image/webp;base64,${pictures.ready.get(chunkOf(image))[image % chunk]}`};
  };

  // Lower-case text of every sample, made by the first search.
  let searched = null;
  const prepareSearch = () => {
    if (searched) return null;
    const all = Array.from({length: Math.ceil(samples.length / chunk)}, (_, number) => texts.ask(number));
    return Promise.all(all).then(() => {
      searched ??= samples.map((one) => {
        const {question, reference, answers: own} = textOf(one);
        const parts = own.flatMap(({text, trace}) => (trace ? [text, trace] : [text]));
        return [one.id, question, reference, ...parts].join('\n').toLowerCase();
      });
    });
  };

  report.sampleData = {
    arms,
    labels: arms.map((arm) => (arm.model ? `${arm.model}: ${arm.name}` : arm.name)),
    datasets,
    categories,
    verdicts,
    samples,
    hasFlips: samples.some((one) => one.flipped),
    // Whether arms have the same arm of the page's first run to be compared with, in `against`.
    hasRuns: arms.some((arm) => arm.against !== null),
    hasImages: images.some((one) => one !== null),
    find: (dataset, id) => byKey.get(keyOf(dataset, id)),
    prepare,
    textOf,
    pictureOf,
    prepareSearch,
    includes: ({number}, words) => searched[number].includes(words),
  };
})(report);
