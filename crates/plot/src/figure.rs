//! The figures of a report.

use crate::axis::Axis;
use crate::escape;
use std::fmt::{Result, Write};

/// Size of all figures, in their own units.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 216.0;
/// Where the drawing ends within it; the rest is for labels.
const TOP: f64 = 22.0;
const BOTTOM: f64 = HEIGHT - 38.0;
const RIGHT: f64 = WIDTH - 8.0;
/// Width of a character, about.
const CHARACTER: f64 = 5.8;
/// Colours of series, in order. A fifth begins anew.
const COLOURS: [&str; 4] = ["a", "b", "c", "d"];

/// What a figure says in words. Each function draws one kind of it, as `<figure>` with the finding as its caption.
#[derive(Debug, Clone, Copy)]
pub struct Figure<'a> {
    /// What is shown, for who does not see it.
    pub title: &'a str,
    /// What it shows, in one sentence.
    pub finding: &'a str,
    /// What the horizontal axis is, with its unit.
    pub x: &'a str,
    /// What the vertical axis is, with its unit.
    pub y: &'a str,
}

/// A value with the range in which the truth lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The best guess.
    pub estimate: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// A value that is known for sure.
    pub const fn exact(value: f64) -> Self {
        Self { estimate: value, low: value, high: value }
    }
}

/// A line over equal steps, with a band where the truth is not known for sure.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the line is.
    pub name: String,
    /// A value for each step; none leaves a gap.
    pub values: Vec<Option<Interval>>,
}

/// A series of bars.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What the series is.
    pub name: String,
    /// A value for each group.
    pub values: Vec<f64>,
}

/// How several series of bars share a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Side by side.
    Grouped,
    /// One on another. Values below zero count as none.
    Stacked,
}

/// Cases for which about the same was predicted, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reliability {
    /// The mean predicted probability.
    pub predicted: f64,
    /// The share in which it came true.
    pub observed: f64,
    /// How many cases there are.
    pub n: u32,
}

/// A share observed in `n` cases with its 95 % interval (Wilson 1927), which does not leave [0, 1].
pub fn share(observed: f64, n: f64) -> Interval {
    const Z: f64 = 1.96;
    let (p, n) = (observed, n.max(1.0));
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).max(0.0).sqrt();
    Interval { estimate: p, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

impl Reliability {
    fn interval(self) -> Interval {
        share(self.observed, f64::from(self.n))
    }
}

impl Figure<'_> {
    /// Lines with their bands over equal steps, such as weeks. `within` limits what is shown, for bands that are very wide
    /// at first; what lies outside is drawn at the edge.
    pub fn lines(&self, steps: &[String], lines: &[Line], within: Option<(f64, f64)>) -> String {
        let values = lines.iter().flat_map(|line| line.values.iter().flatten());
        let ends = values.flat_map(|v| [v.estimate, v.low, v.high]).filter(|n| n.is_finite());
        let limit = |n: f64| within.map_or(n, |(low, high)| n.max(low).min(high));
        let mut frame = Frame::new(ends.chain([0.0]).map(limit));
        frame.y_axis(self.y);
        frame.x_labels(steps, self.x);
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            frame.line(steps, line, colour);
        }
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        self.wrap(&frame.out, &names)
    }

    /// Upright bars, one group for each label.
    pub fn bars(&self, groups: &[String], series: &[Bars], layout: Layout) -> String {
        const GAP: f64 = 0.2;
        let mut frame = Frame::new(ends_of(groups.len(), series, layout));
        frame.y_axis(self.y);
        frame.x_labels(groups, self.x);
        frame.bars(groups, series, layout, GAP);
        let names: Vec<&str> = series.iter().map(|bars| bars.name.as_str()).collect();
        self.wrap(&frame.out, &names)
    }

    /// Bars without gaps, one for each bin from an edge to the next. All are drawn equally wide, so edges may be uneven.
    pub fn histogram(&self, edges: &[String], values: &[f64]) -> String {
        const GAP: f64 = 0.0;
        let series = [Bars { name: self.y.to_owned(), values: values.to_vec() }];
        let mut frame = Frame::new(ends_of(values.len(), &series, Layout::Grouped));
        frame.y_axis(self.y);
        frame.edges(edges, values.len(), self.x);
        let bins: Vec<String> = edges
            .iter()
            .enumerate()
            .map(|(n, edge)| edges.get(n + 1).map_or_else(|| edge.clone(), |next| format!("{edge} to {next}")))
            .collect();
        frame.bars(bins.get(..values.len()).unwrap_or(&bins), &series, Layout::Grouped, GAP);
        self.wrap(&frame.out, &[])
    }

    /// Predicted against observed shares: what is predicted well lies on the diagonal. A point is as large as the cases
    /// behind it are many; its whisker is the 95 % interval of the observed share.
    pub fn reliability(&self, points: &[Reliability]) -> String {
        let ends = points.iter().flat_map(|p| [p.predicted, p.interval().low, p.interval().high]);
        let mut frame = Frame::new(ends.chain([0.0]));
        frame.y_axis(self.y);
        let x = frame.y.drawn(frame.left, RIGHT);
        frame.x_axis(x, self.x);
        frame.diagonal(x);
        let most = points.iter().map(|p| p.n).max().unwrap_or(1).max(1);
        for point in points.iter().filter(|p| p.predicted.is_finite() && p.observed.is_finite()) {
            frame.point(x, *point, most);
        }
        self.wrap(&frame.out, &[])
    }

    fn wrap(&self, drawing: &str, names: &[&str]) -> String {
        let (title, finding) = (escape(self.title), escape(self.finding));
        let key =
            |(name, colour): (&&str, &&str)| format!("<span><i class=\"key {colour}\"></i>{}</span>", escape(name));
        let keys: String = names.iter().zip(COLOURS.iter().cycle()).map(key).collect();
        let legend = if names.len() > 1 { format!("<p class=\"legend\">{keys}</p>\n") } else { String::new() };
        format!(
            "<figure>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{title}</title>\n\
             <desc>{finding}</desc>\n{drawing}</svg>\n{legend}<figcaption>{finding}</figcaption>\n</figure>\n"
        )
    }
}

/// The numbers that an axis for bars has to hold.
fn ends_of(groups: usize, series: &[Bars], layout: Layout) -> Vec<f64> {
    let values = series.iter().flat_map(|bars| bars.values.iter().copied());
    let sum = |group: usize| series.iter().filter_map(|bars| bars.values.get(group)).map(|v| v.max(0.0)).sum::<f64>();
    match layout {
        Layout::Grouped => values.chain([0.0]).collect(),
        Layout::Stacked => (0..groups).map(sum).chain([0.0]).collect(),
    }
}

/// A drawing with its vertical axis.
struct Frame {
    out: String,
    y: Axis,
    /// Where the labels of the vertical axis end.
    left: f64,
}

impl Frame {
    fn new(numbers: impl IntoIterator<Item = f64>) -> Self {
        let y = Axis::around(numbers, BOTTOM, TOP);
        let widest = y.ticks().map(|(_, text)| text.chars().count()).max().unwrap_or(1);
        Self { out: String::new(), y, left: widest as f64 * CHARACTER + 6.0 }
    }

    /// Writes a piece of the drawing. Writing to a string cannot fail.
    fn draw(&mut self, piece: impl FnOnce(&mut String) -> Result) {
        let _ = piece(&mut self.out);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.draw(|out| writeln!(out, "<text text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
    }

    fn y_axis(&mut self, label: &str) {
        self.text(0.0, 10.0, "start", label);
        let (axis, left) = (self.y, self.left);
        for (number, text) in axis.ticks() {
            let y = axis.at(number);
            let class = if number == 0.0 { "base" } else { "axis" };
            self.draw(|out| writeln!(out, "<path class=\"{class}\" d=\"M{left:.1} {y:.1}H{RIGHT:.1}\"/>"));
            self.text(left - 5.0, y + 3.2, "end", &text);
        }
    }

    /// Numbers below the drawing.
    fn x_axis(&mut self, axis: Axis, label: &str) {
        for (number, text) in axis.ticks() {
            self.text(axis.at(number), BOTTOM + 13.0, "middle", &text);
        }
        self.x_title(label);
    }

    fn x_title(&mut self, label: &str) {
        self.text((self.left + RIGHT) / 2.0, HEIGHT - 4.0, "middle", label);
    }

    /// Names of steps or groups below the drawing, as many as there is room for. Names of two words or more take two lines.
    fn x_labels(&mut self, labels: &[String], title: &str) {
        const LINE: f64 = 10.0;
        const APART: f64 = 2.0;
        let slot = (RIGHT - self.left) / labels.len().max(1) as f64;
        let mut taken = f64::NEG_INFINITY;
        for (n, label) in labels.iter().enumerate() {
            let (first, second) = label.rsplit_once(' ').unwrap_or((label, ""));
            let half = first.chars().count().max(second.chars().count()) as f64 * CHARACTER / 2.0;
            // Names at the right edge would be cut off.
            let middle = (self.left + (n as f64 + 0.5) * slot).min(WIDTH - half);
            if middle - half < taken + APART {
                continue;
            }
            taken = middle + half;
            self.text(middle, BOTTOM + 13.0, "middle", first);
            if !second.is_empty() {
                self.text(middle, BOTTOM + 13.0 + LINE, "middle", second);
            }
        }
        self.x_title(title);
    }

    /// Names of edges below the drawing, as many as there is room for.
    fn edges(&mut self, edges: &[String], bins: usize, title: &str) {
        let slot = (RIGHT - self.left) / bins.max(1) as f64;
        for (n, edge) in edges.iter().enumerate().step_by(every(edges, slot)) {
            self.text(self.left + n as f64 * slot, BOTTOM + 13.0, "middle", edge);
        }
        self.x_title(title);
    }

    fn line(&mut self, steps: &[String], line: &Line, colour: &str) {
        let (axis, left) = (self.y, self.left);
        let slot = (RIGHT - left) / steps.len().max(1) as f64;
        let known = |(n, value): (usize, &Option<Interval>)| {
            let value = value.filter(|v| [v.estimate, v.low, v.high].iter().all(|end| end.is_finite()))?;
            Some((n, left + (n as f64 + 0.5) * slot, value))
        };
        let points: Vec<_> = line.values.iter().take(steps.len()).enumerate().filter_map(known).collect();
        for run in points.chunk_by(|before, after| before.0 + 1 == after.0) {
            let at = |number: fn(&Interval) -> f64| {
                run.iter().map(move |(_, x, value)| format!("{x:.1} {:.1}", axis.at(number(value))))
            };
            let band: Vec<String> = at(|v| v.high).chain(at(|v| v.low).rev()).collect();
            let middle: Vec<String> = at(|v| v.estimate).collect();
            self.draw(|out| {
                writeln!(out, "<path class=\"band {colour}\" d=\"M{}Z\"/>", band.join("L"))?;
                writeln!(out, "<path class=\"line {colour}\" d=\"M{}\"/>", middle.join("L"))
            });
        }
        for (n, x, value) in points {
            let y = axis.at(value.estimate);
            let step = steps.get(n).map_or("", String::as_str);
            let Interval { estimate, low, high } = value;
            let range = if low < high { format!(" ({low:.2} to {high:.2})") } else { String::new() };
            let said = escape(format!("{}, {step}: {estimate:.2}{range}", line.name));
            self.draw(|out| {
                writeln!(
                    out,
                    "<circle class=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"><title>{said}</title></circle>"
                )
            });
        }
    }

    fn bars(&mut self, groups: &[String], series: &[Bars], layout: Layout, gap: f64) {
        /// No wider than is nice to look at.
        const WIDEST: f64 = 44.0;
        let slot = (RIGHT - self.left) / groups.len().max(1) as f64;
        let beside = if layout == Layout::Grouped { series.len().max(1) as f64 } else { 1.0 };
        let all = if gap > 0.0 { (slot * (1.0 - gap)).min(WIDEST * beside) } else { slot };
        let width = all / beside;
        for (n, group) in groups.iter().enumerate() {
            let left = self.left + (n as f64 + 0.5) * slot - all / 2.0;
            let mut below = 0.0;
            for (m, (bars, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
                let value = bars.values.get(n).copied().filter(|v| v.is_finite()).unwrap_or(0.0);
                let (x, from, to) = match layout {
                    Layout::Grouped => (left + m as f64 * width, 0.0, value),
                    Layout::Stacked => (left, below, below + value.max(0.0)),
                };
                below = to;
                let (top, bottom) = (self.y.at(from.max(to)), self.y.at(from.min(to)));
                let said = escape(format!("{}, {group}: {}", bars.name, short(value)));
                let (width, height) = ((width - 0.8).max(0.6), bottom - top);
                self.draw(|out| {
                    write!(out, "<rect class=\"{colour}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" ")?;
                    writeln!(out, "height=\"{height:.1}\"><title>{said}</title></rect>")
                });
            }
        }
    }

    fn diagonal(&mut self, x: Axis) {
        let ends: Vec<f64> = x.ticks().map(|(number, _)| number).collect();
        let (Some(low), Some(high)) = (ends.first(), ends.last()) else { return };
        let (x1, y1, x2, y2) = (x.at(*low), self.y.at(*low), x.at(*high), self.y.at(*high));
        self.draw(|out| writeln!(out, "<path class=\"expected\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"));
    }

    fn point(&mut self, x: Axis, point: Reliability, most: u32) {
        const LARGEST: f64 = 6.0;
        let Interval { low, high, .. } = point.interval();
        let (cx, cy, low, high) = (x.at(point.predicted), self.y.at(point.observed), self.y.at(low), self.y.at(high));
        let r = (f64::from(point.n) / f64::from(most)).sqrt() * LARGEST;
        let (predicted, observed) = (point.predicted, point.observed);
        let said = format!("predicted {predicted:.3}, observed {observed:.3}, {} cases", point.n);
        self.draw(|out| {
            writeln!(out, "<path class=\"whisker a\" d=\"M{cx:.1} {low:.1}V{high:.1}\"/>")?;
            write!(out, "<circle class=\"a\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{:.1}\">", r.max(1.5))?;
            writeln!(out, "<title>{said}</title></circle>")
        });
    }
}

/// Every how many labels there is room for one.
fn every(labels: &[String], slot: f64) -> usize {
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(1);
    ((longest as f64 * CHARACTER + 8.0) / slot).ceil().max(1.0) as usize
}

/// A value as it is said of a bar.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure<'_> = Figure { title: "T<1>", finding: "It rises & falls.", x: "week", y: "pp" };

    fn labels(n: usize) -> Vec<String> {
        (1..=n).map(|n| format!("W{n}")).collect()
    }

    fn count(text: &str, what: &str) -> usize {
        text.matches(what).count()
    }

    #[test]
    fn every_figure_says_in_words_what_it_shows() {
        let bars = [Bars { name: "b".into(), values: vec![1.0] }];
        let figures = [
            FIGURE.lines(&labels(1), &[], None),
            FIGURE.bars(&labels(1), &bars, Layout::Grouped),
            FIGURE.histogram(&labels(2), &[1.0]),
            FIGURE.reliability(&[]),
        ];
        for figure in figures {
            for part in [
                "role=\"img\"",
                "<title>T&lt;1&gt;</title>",
                "<desc>It rises &amp; falls.</desc>",
                "<figcaption>It rises &amp; falls.</figcaption>",
                ">week</text>",
                ">pp</text>",
            ] {
                assert!(figure.contains(part), "{part} is missing in {figure}");
            }
        }
    }

    #[test]
    fn a_gap_in_a_line_is_not_bridged() {
        let value = |n: f64| Some(Interval { estimate: n, low: n - 1.0, high: n + 1.0 });
        let line = |values| FIGURE.lines(&labels(5), &[Line { name: "lift".into(), values }], None);
        let whole = line(vec![value(1.0), value(2.0), value(3.0), value(2.0), value(1.0)]);
        let broken = line(vec![value(1.0), value(2.0), None, value(2.0), value(1.0)]);
        assert_eq!((count(&whole, "class=\"line"), count(&whole, "<circle")), (1, 5));
        assert_eq!(
            (count(&broken, "class=\"line"), count(&broken, "class=\"band"), count(&broken, "<circle")),
            (2, 2, 4)
        );
    }

    #[test]
    fn a_limited_line_stays_inside() {
        let wide = Some(Interval { estimate: 2.0, low: -1e6, high: 1e6 });
        let line = [Line { name: "lift".into(), values: vec![wide] }];
        let limited = FIGURE.lines(&labels(1), &line, Some((-10.0, 10.0)));
        assert!(limited.contains(">10</text>") && limited.contains(">\u{2212}10</text>"), "{limited}");
        assert!(!limited.contains("0k</text>"), "{limited}");
    }

    #[test]
    fn stacked_bars_add_up_and_grouped_bars_share_the_base() {
        let series = [Bars { name: "a".into(), values: vec![3.0] }, Bars { name: "b".into(), values: vec![7.0] }];
        let rects = |layout| -> Vec<(f64, f64, f64)> {
            let figure = FIGURE.bars(&labels(1), &series, layout);
            let number = |rect: &str, of: &str| -> f64 {
                rect.split(&format!(" {of}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
            };
            let rects = figure.split("<rect").skip(1);
            rects.map(|r| (number(r, "x"), number(r, "y"), number(r, "height"))).collect()
        };
        let stacked = rects(Layout::Stacked);
        let full = BOTTOM - TOP;
        assert!((stacked[0].2 - full * 0.3).abs() < 0.1 && (stacked[1].2 - full * 0.7).abs() < 0.1, "{stacked:?}");
        assert!((stacked[1].1 + stacked[1].2 - stacked[0].1).abs() < 0.11, "one on another: {stacked:?}");
        let grouped = rects(Layout::Grouped);
        assert!(grouped.iter().all(|(_, y, height)| (y + height - BOTTOM).abs() < 0.11), "{grouped:?}");
        assert!(grouped[1].0 > grouped[0].0, "side by side: {grouped:?}");
    }

    #[test]
    fn nothing_is_drawn_outside_or_at_no_number() {
        let odd = [f64::NAN, f64::INFINITY, -4.0, 1e12];
        let series = [Bars { name: "odd".into(), values: odd.to_vec() }, Bars { name: "short".into(), values: vec![] }];
        let line = Line { name: "odd".into(), values: odd.map(|n| Some(Interval::exact(n))).to_vec() };
        let point = Reliability { predicted: f64::NAN, observed: 0.5, n: 0 };
        for figure in [
            FIGURE.bars(&labels(4), &series, Layout::Grouped),
            FIGURE.bars(&labels(4), &series, Layout::Stacked),
            FIGURE.lines(&labels(4), &[line], None),
            FIGURE.bars(&[], &[], Layout::Grouped),
            FIGURE.histogram(&[], &[]),
            FIGURE.reliability(&[point]),
        ] {
            assert!(!figure.contains("\"NaN") && !figure.contains("inf"), "{figure}");
            assert!(!figure.contains("height=\"-"), "{figure}");
        }
    }

    #[test]
    fn labels_do_not_run_into_each_other() {
        let many: Vec<String> = (1..=60).map(|n| format!("2026-W{n:02}")).collect();
        let shown = count(&FIGURE.lines(&many, &[], None), ">2026-W");
        assert!((4..=8).contains(&shown), "{shown} labels of 60");
        let kinds = ["new", "prompt", "mixed", "usually late", "chronically late", "at risk"].map(str::to_owned);
        let bars = FIGURE.bars(&kinds, &[], Layout::Grouped);
        let is_shown = |word: &str| bars.contains(&format!(">{word}</text>"));
        assert!(kinds.iter().all(|kind| kind.split(' ').all(is_shown)), "six names have room: {bars}");
    }

    #[test]
    fn a_whisker_is_wilsons_interval() {
        // 1 of 10: [.018, .404] in Brown, Cai and DasGupta (2001).
        let interval = Reliability { predicted: 0.1, observed: 0.1, n: 10 }.interval();
        assert!((interval.low - 0.018).abs() < 0.001 && (interval.high - 0.404).abs() < 0.001, "{interval:?}");
    }
}
