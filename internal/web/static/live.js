// Live pages: when the server says that something changed, fetch this page again and replace the parts that differ.
(() => {
  const pulse = document.querySelector('.pulse');
  const say = text => { if (pulse) pulse.textContent = text; };

  // swap replaces each part that carries a data-key and differs; parts that are new or gone redraw the whole main.
  // A report stands in the page at its full height, and is read again when what is said of it has changed.
  const frame = document.querySelector('iframe.report');
  const fit = () => { if (frame.contentDocument) frame.style.height = frame.contentDocument.documentElement.scrollHeight + 4 + 'px'; };
  if (frame) {
    frame.addEventListener('load', fit);
    addEventListener('resize', fit);
    fit();
  }
  const said = root => [...root.querySelectorAll('h1, .phase')].map(e => e.textContent).join();

  const swap = html => {
    const fresh = new DOMParser().parseFromString(html, 'text/html').querySelector('main');
    const main = document.querySelector('main');
    if (!fresh || !main) return;
    const keys = root => [...root.querySelectorAll('[data-key]')].map(e => e.dataset.key).join('\n');
    if (keys(fresh) !== keys(main)) {
      const focus = document.activeElement && document.activeElement.id;
      const typed = filter && filter.value;
      main.replaceChildren(...fresh.childNodes);
      bind();
      if (filter && typed) { filter.value = typed; apply(); }
      if (focus) { const e = document.getElementById(focus); if (e) e.focus({ preventScroll: true }); }
      return;
    }
    if (frame && said(fresh) !== said(main)) frame.contentWindow.location.reload();
    const byKey = new Map([...fresh.querySelectorAll('[data-key]')].map(e => [e.dataset.key, e]));
    for (const old of main.querySelectorAll('[data-key]')) {
      const now = byKey.get(old.dataset.key);
      if (!now || now.querySelector('[data-key]')) continue;
      if (old.className !== now.className && !old.hidden) old.className = now.className;
      if (old.innerHTML !== now.innerHTML) old.innerHTML = now.innerHTML;
    }
    apply();
  };

  let running = false, again = false;
  const refresh = async () => {
    if (running) { again = true; return; }
    running = true;
    try {
      const answer = await fetch(location.href, { headers: { 'X-Live': '1' } });
      if (answer.redirected && answer.url.includes('/login')) location.reload();
      if (answer.ok) swap(await answer.text());
    } catch { say('the server is away'); }
    running = false;
    if (again) { again = false; refresh(); }
  };

  let filter;
  const apply = () => {
    if (!filter) return;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const e of document.querySelectorAll('[data-find]')) {
      e.hidden = !words.every(w => e.dataset.find.includes(w));
    }
  };
  const bind = () => {
    filter = document.querySelector('.filter');
    if (filter) filter.addEventListener('input', apply);
  };
  bind();
  // Enter in the filter opens the first that is left; arrows walk from cell to cell.
  const cells = () => [...document.querySelectorAll('li[data-find]:not([hidden]) a')];
  const walk = key => {
    const list = cells(), at = list.indexOf(document.activeElement);
    if (at < 0) return false;
    const row = list.filter(c => c.getBoundingClientRect().top === list[0].getBoundingClientRect().top).length;
    const to = list[at + ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[key] || 0)];
    if (to) to.focus();
    return true;
  };
  document.addEventListener('keydown', e => {
    if (e.key.startsWith('Arrow') && walk(e.key)) e.preventDefault();
    if (e.key === 'Enter' && filter && document.activeElement === filter && filter.value && cells()[0]) cells()[0].click();
    if (e.key === '/' && filter && document.activeElement !== filter) { e.preventDefault(); filter.focus(); }
  });

  if (document.body.dataset.live) {
    const source = new EventSource('/live');
    source.onopen = () => say('live');
    source.onmessage = refresh;
    source.onerror = () => say('the server is away; trying again');
  }
})();
