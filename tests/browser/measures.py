"""What a control of a page measures: its track, its label, its value."""

TRACK = 120  # pixels at least, so that a finger can choose among values
# Every control with a track: its width, what is cut of its label, the value shown.
TRACKS = """() => {
  const seen = (e) => e && e.getClientRects().length > 0;
  const widgets = [...document.querySelectorAll(".noUi-target")].map((e) => {
    const box = e.closest(".widget-inline-hbox");
    const label = box.querySelector(".widget-label");
    const value = box.querySelector(".widget-readout");
    return { e, label: seen(label) ? label : null, value };
  });
  const own = [...document.querySelectorAll(".live input[type=range]")].map((e) => {
    const box = e.closest("label");
    return { e, label: box, value: box.querySelector("output") };
  });
  return [...widgets, ...own].filter(({ e }) => seen(e)).map(({ e, label, value }) => ({
    name: label ? label.innerText.split("\\n")[0] : "",
    track: Math.round(e.getBoundingClientRect().width),
    cut: label ? label.scrollWidth - label.clientWidth : 0,
    value: seen(value) ? value.innerText.trim() : "",
  }));
}"""


def faults(tracks):
    """What is wrong with the controls that TRACKS measured, in words."""
    told = []
    for track in tracks:
        name = track["name"] or "a control without a name"
        if track["track"] < TRACK:
            told.append(f"{name}: a track of {track['track']} pixels")
        if track["cut"] > 1:
            told.append(f"{name}: its label lacks {track['cut']} pixels")
        if not track["value"]:
            told.append(f"{name}: no value is shown")
    return told
