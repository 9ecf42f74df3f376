"use strict";
// The players of a page: truth, forecasts and errors of a clip, drawn from strips that hold all of its frames.

const settings = document.getElementById("player-settings").dataset;
const rate = Number(settings.rate), errorAtTop = Number(settings.errorAtTop);  // frames a second; error of the last colour
const colours = settings.colours.match(/../g).map((digits) => parseInt(digits, 16));  // of the error: 256 x RGB
const players = [];

function pixels(clip, strip, place) {
  const canvas = document.createElement("canvas");
  canvas.width = clip.width;
  canvas.height = clip.height;
  const context = canvas.getContext("2d");
  const left = (place % clip.columns) * clip.width, top = Math.floor(place / clip.columns) * clip.height;
  context.drawImage(strip, left, top, clip.width, clip.height, 0, 0, clip.width, clip.height);
  return context.getImageData(0, 0, clip.width, clip.height);
}

function errorOf(truth, forecast) {
  const error = new ImageData(truth.width, truth.height);
  for (let i = 0; i < truth.data.length; i += 4) {
    let sum = 0;
    for (let c = 0; c < 3; c++) sum += Math.abs(truth.data[i + c] - forecast.data[i + c]);
    const level = Math.min(255, Math.floor(sum / 3 / errorAtTop));
    for (let c = 0; c < 3; c++) error.data[i + c] = colours[3 * level + c];
    error.data[i + 3] = 255;
  }
  return error;
}

function draw(clip, place) {
  const isGiven = place < clip.given;
  const truth = place < clip.known ? pixels(clip, clip.strips.truth, place) : null;
  for (const canvas of clip.canvases) {
    const strip = clip.strips[canvas.dataset.strip];
    const forecast = isGiven ? null : pixels(clip, strip, place - clip.given);
    let shown = truth;
    if (canvas.dataset.kind === "forecast") shown = isGiven ? truth : forecast;
    if (canvas.dataset.kind === "error") shown = truth && forecast ? errorOf(truth, forecast) : null;
    const context = canvas.getContext("2d");
    if (shown) context.putImageData(shown, 0, 0);
    else context.clearRect(0, 0, clip.width, clip.height);
    if (canvas.dataset.kind === "forecast") {
      canvas.nextElementSibling.textContent = isGiven ? "given" : "forecast";
    }
  }
  clip.place = place;
  clip.slider.value = place + 1;
  clip.output.textContent = `frame ${place + 1} of ${clip.total}: ${isGiven ? "given" : "forecast"}`;
  clip.output.className = isGiven ? "given" : "forecast";
}

function setPlaying(clip, playing) {
  clip.playing = playing;
  clip.button.textContent = playing ? "Pause" : "Play";
  const all = document.getElementById("play-all");
  if (all) all.textContent = players.some((player) => player.playing) ? "Pause all" : "Play all";
}

function start(section, playing) {
  const clip = {strips: {}, canvases: [...section.querySelectorAll("canvas")]};
  for (const name of ["width", "height", "columns", "given", "known", "total"]) clip[name] = Number(section.dataset[name]);
  for (const image of section.querySelectorAll("img")) clip.strips[image.dataset.strip] = image;
  clip.button = section.querySelector("button");
  clip.slider = section.querySelector("input");
  clip.output = section.querySelector("output");
  clip.button.addEventListener("click", () => setPlaying(clip, !clip.playing));
  clip.slider.addEventListener("input", () => {
    setPlaying(clip, false);
    draw(clip, Number(clip.slider.value) - 1);
  });
  players.push(clip);
  setPlaying(clip, playing);
  draw(clip, clip.given);
}

window.addEventListener("load", () => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const section of document.querySelectorAll(".clip")) start(section, !still);
  const all = document.getElementById("play-all");
  if (all) {
    all.addEventListener("click", () => {
      const playing = !players.some((player) => player.playing);
      for (const player of players) setPlaying(player, playing);
    });
  }
  window.setInterval(() => {
    for (const player of players) if (player.playing) draw(player, (player.place + 1) % player.total);
  }, 1000 / rate);
  document.body.dataset.players = players.length;
});
