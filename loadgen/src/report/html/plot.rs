//! A small plot in SVG: scales, axes, lines and areas. Each is drawn for a wide page and for a phone, because text
//! that shrinks with its picture cannot be read.

use std::fmt::Write as _;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The value at the beginning of the axis.
    pub from: f64,
    /// The value at its end.
    pub to: f64,
    /// Equal steps are equal factors.
    pub log: bool,
}

impl Scale {
    /// Where a value lies, from 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        let (from, to, value) = if self.log {
            (self.from.ln(), self.to.ln(), value.max(f64::MIN_POSITIVE).ln())
        } else {
            (self.from, self.to, value)
        };
        if to > from { ((value - from) / (to - from)).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// A logarithmic scale around all values, from 1, 2 or 5 to 1, 2 or 5 of a power of ten.
    pub fn log_around(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = bounds(values.into_iter().filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let steps: Vec<f64> =
            (-9..15).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power))).collect();
        let from = steps.iter().rev().find(|step| **step <= low * 1.001).copied().unwrap_or(low);
        let to = steps.iter().find(|step| **step >= high * 0.999 && **step > from).copied().unwrap_or(high);
        Self { from, to, log: true }
    }

    /// A linear scale from 0 to a round number.
    pub fn linear_to(high: f64) -> Self {
        let step = nice_step(high.max(1e-9) / 4.0);
        Self { from: 0.0, to: (high / step).ceil().max(1.0) * step, log: false }
    }

    /// Round values along the axis, at most about `count`.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if !self.log {
            let step = nice_step((self.to - self.from) / count.max(1) as f64);
            let first = (self.from / step).ceil() as i64;
            return (first..)
                .map(|at| at as f64 * step)
                .take_while(|it| *it <= self.to + step * 1e-6)
                .collect();
        }
        let within = |it: &f64| *it >= self.from * 0.999 && *it <= self.to * 1.001;
        let of = |steps: &[f64]| -> Vec<f64> {
            (-9..15)
                .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
                .filter(within)
                .collect()
        };
        let choices = [of(&[1.0, 2.0, 5.0]), of(&[1.0])];
        choices
            .into_iter()
            .find(|ticks| ticks.len() <= count)
            .unwrap_or_else(|| (-9..15).step_by(2).map(|power| 10f64.powi(power)).filter(within).collect())
    }
}

/// The least and the greatest value.
pub fn bounds(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|it| it * power).find(|it| *it >= step * 0.999).unwrap_or(10.0 * power)
}

/// A plot under construction.
#[derive(Debug)]
pub struct Plot {
    /// The horizontal axis.
    pub x: Scale,
    /// The vertical axis.
    pub y: Scale,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    body: String,
}

const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

impl Plot {
    /// A plot of this size in pixels, with room for names at the right where `names` are to come.
    pub fn new(width: f64, height: f64, x: Scale, y: Scale, names: bool) -> Self {
        let right = match (names, width < 500.0) {
            (true, true) => 60.0,
            (true, false) => 74.0,
            _ => 14.0,
        };
        Self { x, y, width, height, left: 58.0, right, body: String::new() }
    }

    /// The place of a value on the horizontal axis, in pixels.
    pub fn px(&self, value: f64) -> f64 {
        self.left + self.x.share(value) * (self.width - self.left - self.right)
    }

    /// The place of a value on the vertical axis, in pixels.
    pub fn py(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)
    }

    /// Lines and labels along the horizontal axis.
    pub fn x_axis(&mut self, ticks: &[(f64, String)], title: &str) {
        let (top, bottom) = (TOP, self.height - BOTTOM);
        for (value, label) in ticks {
            let x = self.px(*value);
            let _ = write!(self.body, r#"<path class="grid" d="M{x:.1} {top}V{bottom}"/>"#);
            self.text(x, bottom + 16.0, "middle", "", label);
        }
        self.text(self.width - self.right, self.height - 4.0, "end", "", title);
    }

    /// Lines and labels along the vertical axis.
    pub fn y_axis(&mut self, ticks: &[(f64, String)]) {
        for (value, label) in ticks {
            let (y, left, right) = (self.py(*value), self.left, self.width - self.right);
            let _ = write!(self.body, r#"<path class="grid" d="M{left} {y:.1}H{right}"/>"#);
            self.text(left - 8.0, y + 4.0, "end", "", label);
        }
    }

    /// A line through all points, broken where one is missing.
    pub fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, Option<f64>)>) {
        let (mut path, mut pen_up) = (String::new(), true);
        for (x, y) in points {
            let Some(y) = y else {
                pen_up = true;
                continue;
            };
            // A point between two gaps still shows: the line has round ends.
            let command = if std::mem::take(&mut pen_up) { "M" } else { "L" };
            let (x, y) = (self.px(x), self.py(y));
            let _ = write!(path, "{command}{x:.1} {y:.1}");
            if command == "M" {
                path.push_str("h0");
            }
        }
        let _ = write!(self.body, r#"<path class="line {class}" d="{path}"/>"#);
    }

    /// The area between two lines: (x, low, high).
    pub fn band(&mut self, points: &[(f64, f64, f64)]) {
        let mut path = String::new();
        let there = points.iter().map(|(x, low, _)| (x, low));
        let back = points.iter().rev().map(|(x, _, high)| (x, high));
        for (at, (x, y)) in there.chain(back).enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { "M" } else { "L" }, self.px(*x), self.py(*y));
        }
        let _ = write!(self.body, r#"<path class="band" d="{path}Z"/>"#);
    }

    /// A rectangle between two values of each axis.
    pub fn shade(&mut self, x: (f64, f64)) {
        let (from, to) = (self.px(x.0), self.px(x.1));
        let (top, height) = (TOP, self.height - TOP - BOTTOM);
        let _ = write!(
            self.body,
            r#"<rect class="shade" x="{from:.1}" y="{top}" width="{:.1}" height="{height}"/>"#,
            to - from
        );
    }

    /// Many rectangles of one opacity: (x from, x to, y from, y to).
    pub fn cells(&mut self, opacity: f64, cells: &[(f64, f64, f64, f64)]) {
        let mut path = String::new();
        for &(left, right, low, high) in cells {
            let (x, y) = (self.px(left), self.py(high));
            let (width, height) = (self.px(right) - x, self.py(low) - y);
            let _ = write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
        }
        let _ = write!(self.body, r#"<path class="heat" fill-opacity="{opacity:.2}" d="{path}"/>"#);
    }

    /// A dashed line at a value of the vertical axis.
    pub fn mark(&mut self, y: f64) {
        let (y, left, right) = (self.py(y), self.left, self.width - self.right);
        let _ = write!(self.body, r#"<path class="mark" d="M{left} {y:.1}H{right}"/>"#);
    }

    /// The names of lines at their right ends, moved apart where they would meet: (value, class, name).
    pub fn names(&mut self, mut names: Vec<(f64, f64, &str, String)>) {
        names.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut free = f64::MIN;
        let limit = self.height - BOTTOM;
        let count = names.len();
        for (at, (x, y, class, name)) in names.into_iter().enumerate() {
            let below = (count - 1 - at) as f64 * 14.0;
            let place = (self.py(y) + 4.0).max(free).min(limit - below);
            free = place + 14.0;
            let x = self.px(x) + 6.0;
            self.text(x, place, "start", &format!("name {class}"), &name);
        }
    }

    /// The picture, for the pages that have the class.
    pub fn finish(self, class: &str, label: &str) -> String {
        let Self { width, height, body, .. } = self;
        let label = escape(label);
        format!(
            r#"<svg class="{class}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>"#
        )
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#
        );
    }
}

/// Text that is safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ends_and_ticks() {
        let log = Scale::log_around([37.0, 5_200.0]);
        assert_eq!((log.from, log.to), (20.0, 10_000.0));
        assert_eq!(log.ticks(4), [100.0, 1_000.0, 10_000.0]);
        assert_eq!(log.ticks(20).len(), 9);
        assert!((log.share(20.0), log.share(10_000.0), log.share(1.0)) == (0.0, 1.0, 0.0));
        let linear = Scale::linear_to(1_234.0);
        assert_eq!((linear.to, linear.ticks(4)), (1_500.0, vec![0.0, 500.0, 1_000.0, 1_500.0]));
        assert_eq!(Scale::linear_to(0.0).share(0.0), 0.0);
        let same = Scale::log_around([100.0]);
        assert!(same.from < same.to, "one value has room too");
    }

    #[test]
    fn lines_break_at_gaps_and_text_is_escaped() {
        let unit = Scale { from: 0.0, to: 1.0, log: false };
        let mut plot = Plot::new(200.0, 100.0, unit, unit, false);
        plot.line("s1", [(0.0, Some(0.0)), (0.5, None), (1.0, Some(1.0))]);
        let svg = plot.finish("wide", "a<b");
        assert_eq!((svg.matches('M').count(), svg.matches('L').count()), (2, 0));
        assert!(svg.contains("a&lt;b"));
    }
}
