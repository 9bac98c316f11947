//! Findings for people, in the form that rustc made familiar.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, renderer::DecorStyle};

use super::{Diagnostic, Severity};

/// With colours or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With ANSI colours.
    Colored,
}

/// One finding as some lines of text, without a newline at the end.
pub fn render(diagnostic: &Diagnostic, style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colored => Renderer::styled(),
    };
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = printable(&diagnostic.message);
    let where_it_is = printable(&location(diagnostic));
    let file = diagnostic.place.as_ref().map(|place| printable(&place.file));
    let mut group = Group::with_title(level.primary_title(message.as_str()).id(diagnostic.code));
    if let (Some(place), Some(file)) = (&diagnostic.place, &file) {
        group = match &diagnostic.snippet {
            Some(snippet) => group.element(
                annotate_snippets::Snippet::source(snippet.text.as_str())
                    .path(file.as_str())
                    .line_start(snippet.line as usize)
                    .annotation(AnnotationKind::Primary.span(snippet.mark.clone())),
            ),
            None if !place.is_line() => group.element(annotate_snippets::Origin::path(file.as_str())),
            None => group.element(
                annotate_snippets::Origin::path(file.as_str())
                    .line(place.line as usize)
                    .char_column(place.column as usize),
            ),
        };
    }
    if !where_it_is.is_empty() {
        group = group.element(Level::NOTE.with_name("in").message(where_it_is.as_str()));
    }
    let help = diagnostic.help.as_deref().map(printable);
    if let Some(help) = &help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.decor_style(DecorStyle::Ascii).render(&[group])
}

/// `2 errors, 1 warning`
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len().saturating_sub(errors);
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    format!("{}, {}", count(errors, "error"), count(warnings, "warning"))
}

/// The document and the path in it.
fn location(diagnostic: &Diagnostic) -> String {
    let resource = diagnostic.resource.as_ref().map(ToString::to_string);
    let path = (!diagnostic.path.is_empty()).then(|| diagnostic.path.clone());
    resource.into_iter().chain(path).collect::<Vec<_>>().join(", ")
}

/// Without characters that would steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Place, Snippet, codes};
    use crate::rules::ResourceId;

    fn finding() -> Diagnostic {
        Diagnostic {
            place: Some(Place { file: "rules/reviews.yaml".into(), line: 12, column: 15 }),
            resource: Some(ResourceId {
                kind: "VirtualService".into(),
                namespace: "default".into(),
                name: "reviews".into(),
            }),
            path: "spec.http[0].route[1].weight".into(),
            help: Some("weights are shares: 0 or more".into()),
            snippet: Some(Snippet { line: 12, text: "      weight: -20".into(), mark: 14..17 }),
            ..Diagnostic::new(codes::WEIGHT, "the weight is negative")
        }
    }

    #[test]
    fn a_finding_looks_as_rustc_would_show_it() {
        let expected = "\
error[L0107]: the weight is negative
  --> rules/reviews.yaml:12:15
   |
12 |       weight: -20
   |               ^^^
   |
   = in: VirtualService default/reviews, spec.http[0].route[1].weight
   = help: weights are shares: 0 or more";
        assert_eq!(render(&finding(), Style::Plain), expected);
    }

    #[test]
    fn a_finding_without_a_line_names_the_file() {
        let text = render(&Diagnostic { snippet: None, ..finding() }, Style::Plain);
        assert!(text.contains("--> rules/reviews.yaml:12:15"), "{text}");
        let place = Some(Place::object("shop/VirtualService/reviews".into()));
        let text = render(&Diagnostic { snippet: None, place, ..finding() }, Style::Plain);
        assert!(text.contains("--> shop/VirtualService/reviews\n"), "{text}");
        let text = render(&Diagnostic { snippet: None, place: None, ..finding() }, Style::Plain);
        assert!(text.starts_with("error[L0107]: the weight is negative"), "{text}");
    }

    #[test]
    fn text_from_a_file_does_not_steer_the_terminal() {
        let mut finding = finding();
        finding.message = "a\u{1b}[31mb".into();
        assert!(!render(&finding, Style::Plain).contains('\u{1b}'));
    }

    #[test]
    fn the_summary_counts_both_kinds() {
        assert_eq!(summary(&[]), "0 errors, 0 warnings");
        assert_eq!(summary(&[finding()]), "1 error, 0 warnings");
    }
}
