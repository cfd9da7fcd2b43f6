let room = Infinity;  // bytes

// Files that are too large are refused here, before they are sent.
function inWords(bytes) {
    if (bytes < 1e6) return Math.floor(bytes / 1e3) + ' kB';
    return bytes < 1e9 ? Math.round(bytes / 1e6) + ' MB' : (bytes / 1e9).toFixed(1) + ' GB';
}
function refuse(event, list, where) {
    document.querySelectorAll('.z-large').forEach(line => line.remove());
    const large = [...list || []].find(file => file.size > Math.min(LARGEST, room));
    if (!large) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type === 'change') event.target.value = '';  // so that the same file can be chosen again
    const line = document.createElement('p');
    line.className = 'z-error z-large';
    line.setAttribute('role', 'alert');
    const why = large.size > LARGEST ? `an upload can be at most ${inWords(LARGEST)}`
        : `there is only room for ${inWords(room)} more; remove edits that you no longer need`;
    line.textContent = `${large.name} is ${inWords(large.size)}, but ${why}`;
    where.closest('.block').after(line);
}
document.addEventListener('change', event => {
    if (event.target.type === 'file') refuse(event, event.target.files, event.target);
}, true);
document.addEventListener('drop', event => refuse(event, event.dataTransfer.files, event.target), true);

// In a narrow window the results are below: go there once something that is started is in the list.
let started = false;
document.addEventListener('click', event => {
    if (event.target.closest && event.target.closest('.go button')) started = matchMedia('(max-width: 899px)').matches;
});

// Source and result over one another: a slider moves the edge, and the source plays along with the result.
const figureOf = element => element.closest && element.closest('.z-compare');
document.addEventListener('input', event => {
    const figure = figureOf(event.target);
    if (figure) figure.style.setProperty('--at', event.target.value + '%');
});
document.addEventListener('click', event => {
    const figure = figureOf(event.target);
    if (figure && event.target.matches('[data-side]')) {
        const wipes = figure.classList.toggle('wipe');
        event.target.textContent = wipes ? 'Side by side' : 'Sliding edge';
    }
    if (figure && event.target.matches('[data-play]')) {
        const video = figure.querySelector('video.result');
        if (video.paused) video.play(); else video.pause();
    }
});
for (const name of ['play', 'pause', 'seeking', 'timeupdate']) {
    document.addEventListener(name, event => {
        const figure = figureOf(event.target);
        const source = figure && figure.querySelector('video.source');
        if (!source || event.target === source) return;
        const result = event.target;
        if (Math.abs(source.currentTime - result.currentTime) > 0.08) source.currentTime = result.currentTime;
        if (name === 'play') source.play();
        if (name === 'pause') source.pause();
        figure.querySelector('[data-play]').textContent = result.paused ? 'Play' : 'Pause';
    }, true);
}

// The list of jobs. A row belongs to its job: when the list changes, a button that is pressed or has the keyboard
// stays the same job's, wherever it moves to, and goes away only if its job no longer has it.
function showJobs(element, told, watch, trigger) {
    const list = element.querySelector('ol');
    function update() {
        const made = document.createElement('ol');
        const value = told();
        if (!value) return;
        made.innerHTML = value.rows;
        room = value.room;
        const old = new Map([...list.children].map(row => [row.dataset.job, row]));
        const shown = [...made.children].map(row => old.has(row.dataset.job) ? renew(old.get(row.dataset.job), row) : row);
        [...old.values()].filter(row => !shown.includes(row)).forEach(row => row.remove());
        shown.forEach((row, at) => { if (list.children[at] !== row) list.insertBefore(row, list.children[at]); });
        if (started && shown.some(row => !old.has(row.dataset.job))) {
            started = false;
            element.closest('.z-results').scrollIntoView({behavior: 'smooth'});
        }
    }
    element.addEventListener('click', event => {
        const button = event.target.closest('[data-do]');
        if (!button) return;
        if (button.dataset.do === 'remove' && !confirm('Delete this and its files?')) return;
        trigger('click', {what: button.dataset.do, job: Number(button.closest('[data-job]').dataset.job)});
    });
    watch('value', update);
    update();
}
function renew(row, made) {
    row.className = made.className;
    row.setAttribute('aria-current', made.getAttribute('aria-current'));
    [...made.children].forEach((part, at) => {
        const [bar, further] = [row.children[at], part].map(each => each.querySelector('progress'));
        if (bar && further) bar.value = further.value;  // which CSS draws as a movement
        else if (row.children[at].outerHTML !== part.outerHTML) row.children[at].replaceWith(part);
    });
    return row;
}
