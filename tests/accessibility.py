"""What holds for every page: axe-core finds nothing, focus shows, and nothing overflows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from playwright.sync_api import Page

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
# As wide as a table of many columns: axe tells no contrast of text that scrolls out of its box.
WIDE, NARROW = 2560, 380


@dataclass(frozen=True, kw_only=True)
class Look:
    """A window of some width under a colour scheme, and axe's rules asked there: all where none is named."""

    width: int
    scheme: Literal["light", "dark"]
    rules: tuple[str, ...] = ()


# Rules that depend on neither colour nor width are asked once: they take seconds of a large page. So does axe's own
# rule of contrast, which the dark scheme is spared: there the colours of each text are read.
LOOKS = {
    "light": Look(width=WIDE, scheme="light"),
    "dark": Look(width=WIDE, scheme="dark"),
    "narrow": Look(
        width=NARROW, scheme="light", rules=("target-size", "scrollable-region-focusable", "meta-viewport")
    ),
}


def find_violations(page: Page, look: str) -> list[str]:
    """What axe-core finds in a page under a look, all that is folded opened: rule, element and reason of each."""
    from axe_playwright_python.base import AXE_SCRIPT

    chosen = LOOKS[look]
    page.set_viewport_size({"width": chosen.width, "height": 900})
    page.emulate_media(color_scheme=chosen.scheme)
    unfold(page)
    if chosen.scheme == "dark":
        return find_faint_text(page)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    kind, values = ("rule", chosen.rules) if chosen.rules else ("tag", RULES)
    options = {
        "resultTypes": ["violations"],
        "runOnly": {"type": kind, "values": values},
        # Of WCAG 2.2, and not asked unless named.
        "rules": {"target-size": {"enabled": True}},
    }
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


def find_faint_text(page: Page) -> list[str]:
    """Text in sight whose contrast with what it stands on is less than WCAG's: one element of each pair of colours.

    What it stands on is the background of the element and its ancestors, down to one that lets nothing through.
    """
    pairs = page.evaluate(
        """() => {
            const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
            const known = new Map();
            const read = (color) => {
                if (!known.has(color)) {
                    pen.clearRect(0, 0, 1, 1);
                    pen.fillStyle = color;
                    pen.fillRect(0, 0, 1, 1);
                    const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
                    known.set(color, [[red, green, blue], alpha / 255]);
                }
                return known.get(color);
            };
            const lay = ([color, alpha], ground) => color.map((one, i) => alpha * one + (1 - alpha) * ground[i]);
            const findGround = (one) => {
                const [color, alpha] = read(one ? getComputedStyle(one).backgroundColor : 'white');
                return alpha === 1 ? color : lay([color, alpha], findGround(one.parentElement));
            };
            const silent = '[type=checkbox], [type=radio], [type=range]';
            const isText = (one) => one.matches(`select, textarea, input:not(${silent})`)
                || [...one.childNodes].some(part => part.nodeType === 3 && part.data.trim());
            const pairs = new Map();
            for (const one of document.body.querySelectorAll('*:not(script, option, :disabled)')) {
                if (!isText(one) || !one.checkVisibility({checkOpacity: true})) continue;
                const style = getComputedStyle(one);
                const size = parseFloat(style.fontSize);
                const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
                const ground = findGround(one);
                const color = lay(read(style.color), ground);
                pairs.set(`${color} ${ground} ${large}`, [color, ground, large, one.outerHTML.slice(0, 160)]);
            }
            return [...pairs.values()];
        }"""
    )
    # A page has its text, what is quieter and what is linked at least.
    assert len(pairs) >= 3
    return [
        f"contrast of {color} on {ground}: {element}"
        for color, ground, large, element in pairs
        if contrast(luminance(color), luminance(ground)) < (3 if large else 4.5)
    ]


def luminance(color: list[float]) -> float:
    """Relative luminance as WCAG 2 defines it, of red, green and blue from 0 to 255."""
    linear = [
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
        for one in (part / 255 for part in color[:3])
    ]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: float, other: float) -> float:
    """WCAG's ratio of two luminances, from 1 to 21."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def unfold(page: Page) -> None:
    """Open all that is folded, and what is folded inside it, once the page has filled it."""
    page.evaluate(
        """async () => {
            const find = () => [...document.querySelectorAll('details:not([open])')];
            for (let closed = find(); closed.length; closed = find()) {
                await Promise.all(closed.map(one => new Promise(done => {
                    one.addEventListener('toggle', done, {once: true});
                    one.open = true;
                })));
            }
        }"""
    )


def find_overflow(page: Page, width: int) -> list[str]:
    """The outermost elements that make a page wider than a window of `width` pixels, all that is folded opened."""
    page.set_viewport_size({"width": width, "height": 900})
    unfold(page)
    return page.evaluate(
        """width => {
            if (document.documentElement.scrollWidth <= width) return [];
            const wide = [...document.body.querySelectorAll('*')].filter(
                one => one.getBoundingClientRect().right > width + 1 && !one.parentElement.closest('.scroll'));
            return wide.map(one => one.outerHTML.slice(0, 120));
        }""",
        width,
    )


def walk_by_tab(page: Page, most: int) -> list[dict[str, Any]]:
    """What takes the focus, tab by tab from the top until it leaves the page, `most` stops at most.

    Of each its `place` in the document, its `name`, whether a line around it shows (`outlined`), and whether something
    lies over the middle of what is in sight of it (`covered`).
    """
    page.evaluate("document.activeElement.blur(); window.scrollTo({top: 0, behavior: 'instant'})")
    walked: list[dict[str, Any]] = []
    while len(walked) < most:
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
                const one = document.activeElement;
                if (one === document.body) return null;
                const style = getComputedStyle(one);
                const box = one.getBoundingClientRect();
                const middle = (from, to, end) => (Math.max(from, 0) + Math.min(to, end)) / 2;
                const top = document.elementFromPoint(
                    middle(box.left, box.right, innerWidth), middle(box.top, box.bottom, innerHeight));
                return {
                    place: [...document.querySelectorAll('*')].indexOf(one),
                    name: one.getAttribute('aria-label') || one.labels?.[0]?.textContent || one.textContent.trim(),
                    outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                    covered: top === null || !(one.contains(top) || top.contains(one)),
                };
            }"""
        )
        if stop is None:
            break
        walked.append(stop)
    return walked
