// Files that are too large are refused here, before they are sent.
const inWords = bytes => bytes < 1e9 ? Math.round(bytes / 1e6) + ' MB' : (bytes / 1e9).toFixed(1) + ' GB';
function refuse(event, list, where) {
    document.querySelectorAll('.z-large').forEach(line => line.remove());
    const large = [...list || []].find(file => file.size > LARGEST);
    if (!large) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const line = document.createElement('p');
    line.className = 'z-error z-large';
    line.setAttribute('role', 'alert');
    line.textContent = `${large.name} is ${inWords(large.size)}, but an upload can be at most ${inWords(LARGEST)}`;
    where.closest('.block').after(line);
}
document.addEventListener('change', event => {
    if (event.target.type === 'file') refuse(event, event.target.files, event.target);
}, true);
document.addEventListener('drop', event => refuse(event, event.dataTransfer.files, event.target), true);

// In a narrow window the results are below: go there when something is started.
document.addEventListener('click', event => {
    const results = document.querySelector('.z-results');
    const started = event.target.closest && event.target.closest('.go button');
    if (started && matchMedia('(max-width: 899px)').matches) setTimeout(() => {
        if (!document.querySelector('.z-inputs .z-error')) results.scrollIntoView({behavior: 'smooth'});
    }, 800);
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
