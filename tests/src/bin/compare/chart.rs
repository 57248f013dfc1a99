//! Horizontal bars as SVG, legible on a light page and on a dark one.

use std::fmt::Write as _;

/// Bars that are compared with one another.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// A bar of a chart.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The value as it is shown.
    pub(crate) label: String,
    /// Whether it stands out.
    pub(crate) ours: bool,
}

const WIDTH: u32 = 720;
const MARGIN: u32 = 20;
const NAMES: u32 = 130;
/// What the labels need to the right of the longest bar.
const LABELS: u32 = 110;
const LONGEST: u32 = WIDTH - 2 * MARGIN - NAMES - LABELS;
const ROW: u32 = 24;
const BAR: u32 = 16;
const HEAD: u32 = 66;

/// Draws a chart. Bars have the same scale within a group only.
pub(crate) fn draw(title: &str, note: &str, groups: &[Group]) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD + u32::try_from(rows).unwrap_or(0) * ROW + u32::try_from(groups.len()).unwrap_or(0) * 36 + MARGIN;
    let (title, note) = (escape(title), escape(note));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n{STYLE}\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"32\">{title}</text>\n\
         <text class=\"note\" x=\"{MARGIN}\" y=\"52\">{note}</text>\n"
    );
    let mut top = HEAD;
    for group in groups {
        top += 24;
        line(
            &mut svg,
            format_args!("<text class=\"group\" x=\"{MARGIN}\" y=\"{}\">{}</text>", top - 6, escape(&group.title)),
        );
        let longest = group.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        for bar in &group.bars {
            draw_bar(&mut svg, bar, top, length(bar.value, longest));
            top += ROW;
        }
        top += 12;
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bar(svg: &mut String, bar: &Bar, top: u32, length: f64) {
    let class = if bar.ours { "ours" } else { "other" };
    let (start, text) = (MARGIN + NAMES, top + BAR - 3);
    let (name, label) = (escape(&bar.name), escape(&bar.label));
    line(
        svg,
        format_args!("<text class=\"{class}\" x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>", start - 10),
    );
    line(
        svg,
        format_args!(
            "<rect class=\"{class}\" x=\"{start}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
        ),
    );
    let end = f64::from(start) + length + 8.0;
    line(svg, format_args!("<text class=\"{class}\" x=\"{end:.1}\" y=\"{text}\">{label}</text>"));
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _infallible = writeln!(svg, "{text}");
}

/// The length of a bar; even the smallest is seen.
fn length(value: f64, longest: f64) -> f64 {
    if longest > 0.0 { (value / longest * f64::from(LONGEST)).max(1.0) } else { 1.0 }
}

/// The text with what XML would take for itself written out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

// The chart brings its own page, so that it is legible even where the page around it follows another scheme.
const STYLE: &str = "<style>
text { font: 13px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; fill: #424a53; }
.page { fill: #ffffff; }
.title { font-size: 17px; font-weight: 600; fill: #1f2328; }
.note { font-size: 12px; fill: #59636e; }
.group { font-weight: 600; fill: #1f2328; }
text.ours { font-weight: 600; fill: #1f2328; }
rect.ours { fill: #0969da; }
rect.other { fill: #b1bac4; }
@media (prefers-color-scheme: dark) {
text { fill: #c9d1d9; }
.page { fill: #0d1117; }
.note { fill: #9198a1; }
.title, .group, text.ours { fill: #f0f6fc; }
rect.ours { fill: #58a6ff; }
rect.other { fill: #484f58; }
}
</style>
";

#[cfg(test)]
mod tests {
    use super::*;

    fn group(bars: &[(&str, f64)]) -> Group {
        let bars = bars.iter().map(|(name, value)| Bar {
            name: (*name).to_owned(),
            value: *value,
            label: format!("{value}"),
            ours: *name == "adit",
        });
        Group { title: "One <flow>".to_owned(), bars: bars.collect() }
    }

    #[test]
    fn what_xml_would_take_for_itself_is_written_out() {
        assert_eq!(escape("a<b> & \"c\" 'd' µs"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39; µs");
    }

    #[test]
    fn names_and_titles_are_escaped_in_the_drawing() {
        let svg = draw("R & D", "x < y", &[group(&[("<script>", 1.0)])]);
        assert!(svg.contains("R &amp; D") && svg.contains("x &lt; y") && svg.contains("One &lt;flow&gt;"), "{svg}");
        assert!(!svg.contains("<script>"), "{svg}");
    }

    #[test]
    fn the_largest_value_has_the_longest_bar_and_the_others_their_share() {
        assert_eq!(length(4.0, 4.0), f64::from(LONGEST));
        assert_eq!(length(1.0, 4.0), f64::from(LONGEST) / 4.0);
    }

    #[test]
    fn a_bar_of_nothing_is_still_seen() {
        assert_eq!(length(0.0, 4.0), 1.0);
        assert_eq!(length(0.0, 0.0), 1.0);
    }

    #[test]
    fn all_is_drawn_inside_the_picture() {
        let svg = draw("t", "n", &[group(&[("adit", 4.0), ("b", 1.0)]), group(&[("adit", 2.0)])]);
        let number = |text: &str, key: &str| -> f64 {
            let (_, rest) = text.split_once(&format!("{key}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let height = number(&svg, " height");
        let bars: Vec<&str> = svg.lines().filter(|line| line.contains("rect class=\"o")).collect();
        assert_eq!(bars.len(), 3);
        for bar in bars {
            assert!(number(bar, " y") + number(bar, " height") < height, "{bar}");
            assert!(number(bar, " x") + number(bar, " width") <= f64::from(WIDTH - MARGIN - LABELS), "{bar}");
        }
    }
}
