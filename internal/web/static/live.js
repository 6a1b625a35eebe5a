// Live pages: when the server says that something changed, fetch this page again and replace the parts that differ.
(() => {
  const pulse = document.querySelector('.pulse');
  const say = text => { if (pulse) pulse.textContent = text; };

  // swap replaces each part that carries a data-key and differs; parts that are new or gone redraw the whole main.
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
  document.addEventListener('keydown', e => {
    if (e.key === '/' && filter && document.activeElement !== filter) { e.preventDefault(); filter.focus(); }
  });

  if (document.body.dataset.live) {
    const source = new EventSource('/live');
    source.onopen = () => say('live');
    source.onmessage = refresh;
    source.onerror = () => say('the server is away; trying again');
  }
})();
