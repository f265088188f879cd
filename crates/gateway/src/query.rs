//! Query strings and names in paths.

use axum::extract::Query;
use axum::http::Uri;
use serde::de::DeserializeOwned;
use tidemill_problem::{Code, Problem};

/// Reads a query string. The types refuse unknown parameters, so that a
/// misspelt filter is not taken for no filter.
///
/// # Errors
/// `bad-request` for a parameter that is unknown or has another type.
pub(crate) fn parse<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => {
            let text = rejection.body_text();
            let cause = text
                .rsplit_once("string: ")
                .map_or(&*text, |(_, rest)| rest);
            let detail = format!("the query string is wrong: {cause}");
            Err(Problem::new(Code::BadRequest, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Page {
        prefix: Option<String>,
        limit: Option<usize>,
    }

    #[test]
    fn parameters_are_decoded_and_unknown_ones_refused() {
        let page: Page = parse(&Uri::from_static("/x?prefix=a%2Fb%20c&limit=3")).expect("valid");
        assert_eq!(page.prefix.as_deref(), Some("a/b c"));
        assert_eq!(page.limit, Some(3));
        let none: Page = parse(&Uri::from_static("/x")).expect("valid");
        assert_eq!(
            none,
            Page {
                prefix: None,
                limit: None
            }
        );
        for bad in ["/x?limit=many", "/x?limt=3"] {
            let refused = parse::<Page>(&bad.parse().expect("a target"));
            let problem = refused.expect_err(bad);
            assert_eq!(problem.code, Code::BadRequest);
            assert!(
                problem.detail.contains("limi") || problem.detail.contains("limt"),
                "{}",
                problem.detail
            );
        }
    }
}
