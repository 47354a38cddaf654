"""The README's chart: three rows of bars, readable on a light and on a dark page."""

from html import escape

WIDTH, BAR, GAP, LEFT, PANEL_GAP = 760, 18, 8, 120, 46
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .note { fill: #59636e; font-size: 12px }
  .bar { fill: #8c959f } .ours { fill: #0969da } .spread { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .note { fill: #9198a1 }
    .bar { fill: #656c76 } .ours { fill: #4493f8 } .spread { stroke: #f0f6fc }
  }"""


def svg(panels: list[tuple[str, str, list[tuple[str, float, float, float, str]]]], note: str) -> str:
    """Draws panels of a title, a remark, and bars as (name, value, low, high, label)."""
    parts, y = [], 24
    for title, remark, bars in panels:
        parts.append(f'<text class="title" x="0" y="{y}">{escape(title)}</text>')
        parts.append(f'<text class="note" x="{WIDTH}" y="{y}" text-anchor="end">{escape(remark)}</text>')
        longest = max(high for _, _, _, high, _ in bars)
        scale = (WIDTH - LEFT - 130) / longest
        y += 14
        for name, value, low, high, label in bars:
            parts += _bar(name, value * scale, low * scale, high * scale, label, y)
            y += BAR + GAP
        y += PANEL_GAP - GAP - 14
    parts.append(f'<text class="note" x="0" y="{y}">{escape(note)}</text>')
    box, label = f"0 0 {WIDTH} {y + 12}", escape(panels[0][0])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" aria-label="{label}">'
    return "\n".join([head, f"<style>{STYLE}\n</style>", *parts, "</svg>", ""])


def _bar(name: str, length: float, low: float, high: float, label: str, y: int) -> list[str]:
    kind = "bar ours" if name == "idjag-proxy" else "bar"
    middle = y + BAR / 2
    parts = [
        f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
    ]
    if high > low:
        parts.append(f'<line class="spread" x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<text x="{LEFT + max(length, high) + 8:.1f}" y="{y + 14}">{escape(label)}</text>')
    return parts
