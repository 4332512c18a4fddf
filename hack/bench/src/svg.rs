//! Plots: lines over time.

use std::fmt::Write as _;

const SIZE: (f64, f64) = (760.0, 360.0);
const EDGE: f64 = 56.0;
const COLOURS: [&str; 6] = ["#888888", "#d95f02", "#1b6ca8", "#7570b3", "#2a9d5c", "#c0392b"];

/// A line: its name and its points.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// A plot of these lines; both axes begin at zero.
pub(crate) fn plot(title: &str, across: &str, up: &str, lines: &[Line]) -> String {
    let most = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|(_, points)| points.iter().map(of)).fold(0.0, f64::max).max(1e-9)
    };
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    let (width, height) = SIZE;
    let x = |value: f64| EDGE + value / right * (width - 2.0 * EDGE);
    let y = |value: f64| height - EDGE - value / top * (height - 2.0 * EDGE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{EDGE}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let (across, up) = (x(right * part), y(top * part));
        _ = writeln!(
            svg,
            "<line x1=\"{EDGE}\" x2=\"{:.1}\" y1=\"{up:.1}\" y2=\"{up:.1}\" stroke=\"#e0e0e0\"/>",
            width - EDGE
        );
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            EDGE - 6.0,
            up + 4.0,
            number(top * part)
        );
        _ = writeln!(
            svg,
            "<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - EDGE + 18.0,
            number(right * part)
        );
    }
    _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{across}</text>", width - EDGE, height - 14.0);
    _ = writeln!(svg, "<text x=\"8\" y=\"40\">{up}</text>");
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // More points than pixels say nothing.
        let every = points.len().div_ceil(700).max(1);
        let shown = points.iter().step_by(every).chain(points.last());
        let path: Vec<String> = shown.map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
        _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            path.join(" ")
        );
        let down = 22.0 + 16.0 * index as f64;
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{down:.1}\" fill=\"{colour}\" text-anchor=\"end\">{name}</text>",
            width - 8.0
        );
    }
    svg + "</svg>\n"
}

fn number(value: f64) -> String {
    if value >= 20.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_spans_the_plot() {
        let svg = plot("t", "s", "pods", &[("a".into(), vec![(0.0, 0.0), (10.0, 500.0)])]);
        assert!(svg.contains("points=\"56.0,304.0 704.0,56.0 704.0,56.0\""), "{svg}");
        assert!(svg.contains(">500</text>") && svg.contains(">2.5</text>"));
    }
}
