// Runs once when the results are put on the page; `element` holds them.

const QUERY = '#query';

element.addEventListener('click', (event) => {
  const copy = event.target.closest('button[data-copy]');
  if (copy) return copyImage(copy);
  const button = event.target.closest('button[data-id]');
  if (button) trigger('choose', {id: button.dataset.id});
});

// The same item in both columns.
const mark = (event) => {
  const found = event.target.closest?.('li[data-item]');
  for (const one of element.querySelectorAll('li.hr-equal')) one.classList.remove('hr-equal');
  if (!found) return;
  const equal = [...element.querySelectorAll('li[data-item]')].filter((e) => e.dataset.item === found.dataset.item);
  if (equal.length > 1) for (const one of equal) one.classList.add('hr-equal');
};
element.addEventListener('mouseover', mark);
element.addEventListener('mouseleave', mark);
element.addEventListener('focusin', mark);

async function copyImage(button) {
  const text = button.textContent;
  const show = (said) => {
    button.textContent = said;
    setTimeout(() => { button.textContent = text; }, 2000);
  };
  try {
    const png = (async () => {
      const response = await fetch(button.dataset.copy);
      if (!response.ok) throw new Error(response.status);
      const bitmap = await createImageBitmap(await response.blob());
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      canvas.getContext('2d').drawImage(bitmap, 0, 0);
      return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
    })();
    await navigator.clipboard.write([new ClipboardItem({'image/png': png})]);
    show('Copied');
  } catch {
    show('Not allowed');
  }
}

// An image pasted anywhere is the query, except into a field for text.
document.addEventListener('paste', async (event) => {
  if (event.target.closest?.('input:not([type=file]), textarea, [contenteditable]')) return;
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith('image/'));
  if (!file) return;
  event.preventDefault();
  const clear = document.querySelector(
    `${QUERY} button[aria-label='Clear'], ${QUERY} button[aria-label='Remove Image']`);
  if (clear) clear.click();
  for (let turn = 0; turn < 50; turn += 1) {
    const input = document.querySelector(`${QUERY} input[type=file]`);
    if (input) {
      const transfer = new DataTransfer();
      transfer.items.add(file);
      input.files = transfer.files;
      input.dispatchEvent(new Event('change', {bubbles: true}));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

// On a phone, the options are behind a button.
for (const button of document.querySelectorAll('button.hr-toggle')) {
  button.addEventListener('click', () => {
    const open = button.getAttribute('aria-expanded') !== 'true';
    button.setAttribute('aria-expanded', String(open));
    button.closest('.hr-side').classList.toggle('hr-open', open);
  });
}

watch('value', () => {
  const shown = element.querySelector('.hr-results');
  if (shown) history.replaceState(history.state, '', window.location.pathname + shown.dataset.address);
  const answer = element.querySelector('.hr-query, .hr-message');
  if (!answer) return;
  const heading = answer.querySelector('h2') || answer;
  heading.tabIndex = -1;
  if (document.activeElement === document.body) heading.focus({preventScroll: true});
  if (answer.getBoundingClientRect().top > 0.6 * window.innerHeight) {
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    answer.scrollIntoView({behavior: still ? 'auto' : 'smooth', block: 'start'});
  }
});
