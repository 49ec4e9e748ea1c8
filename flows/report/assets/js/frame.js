// Around the sections: the list of sections marks the one being read, and what does not scroll takes no focus.
(() => {
  const list = document.querySelector('.sections ul');
  const links = new Map([...document.querySelectorAll('.sections a')].map((link) => [link.hash.slice(1), link]));
  const visible = new Set();
  const markCurrent = () => {
    const current = [...links.keys()].find((id) => visible.has(id));
    if (current === undefined) return;
    for (const [id, link] of links) {
      if (id === current) link.setAttribute('aria-current', 'location');
      else link.removeAttribute('aria-current');
    }
    const {offsetLeft, offsetWidth} = links.get(current);
    if (offsetLeft < list.scrollLeft || offsetLeft + offsetWidth > list.scrollLeft + list.clientWidth) {
      list.scrollLeft = offsetLeft;
    }
  };
  const reading = new IntersectionObserver(
    (entries) => {
      for (const {target, isIntersecting} of entries) {
        if (isIntersecting) visible.add(target.id);
        else visible.delete(target.id);
      }
      markCurrent();
    },
    {rootMargin: '-15% 0px -60% 0px'},
  );
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) reading.observe(section);
  }

  const sizes = new ResizeObserver((entries) => {
    for (const {target} of entries) {
      const scrolls = target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
      if (scrolls) target.tabIndex = 0;
      // Whoever is there now would be thrown back to the top.
      else if (target !== document.activeElement) target.removeAttribute('tabindex');
    }
  });
  for (const box of document.querySelectorAll('.scroll')) sizes.observe(box);
})();
