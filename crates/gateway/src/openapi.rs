//! `/openapi.json`: the exact description of this door, written by hand and held
//! to the table of routes by a test.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

const DOCUMENT: &str = include_str!("../openapi.json");

/// `GET /openapi.json`
pub(crate) fn show() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use tidemill_problem::Code;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("openapi.json is JSON")
    }

    fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
        let paths = document["paths"].as_object().expect("paths");
        paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path item").iter();
            methods
                .filter(|(method, _)| *method != "parameters")
                .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    #[test]
    fn the_document_and_the_table_of_routes_say_the_same() {
        let document = document();
        let documented: BTreeSet<_> = operations(&document)
            .map(|(path, method, operation)| {
                let id = operation["operationId"].as_str().unwrap_or_default();
                (method.to_uppercase(), path.to_owned(), id.to_owned())
            })
            .collect();
        let served: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| {
                let path = route.path.replace("{*", "{");
                (route.method.to_owned(), path, route.id.to_owned())
            })
            .collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn each_operation_is_described_in_full() {
        let document = document();
        for (path, method, operation) in operations(&document) {
            let name = format!("{method} {path}");
            let text = |member: &str| operation[member].as_str().unwrap_or_default();
            assert!(!text("summary").is_empty(), "{name} has no summary");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(
                responses.keys().any(|status| status.starts_with('2')),
                "{name}"
            );
            let open = operation["security"].as_array().is_some_and(Vec::is_empty);
            let route = ROUTES.iter().find(|route| route.id == text("operationId"));
            assert_eq!(open, route.expect("a route").open, "{name}: security");
            assert_eq!(
                responses.contains_key("default"),
                !path.ends_with("livez"),
                "{name}"
            );
            let item = &document["paths"][path];
            let parameters = item["parameters"].as_array().into_iter().flatten();
            let declared: BTreeSet<_> = parameters
                .map(|parameter| match parameter["$ref"].as_str() {
                    Some(reference) => document
                        .pointer(reference.trim_start_matches('#'))
                        .expect("a parameter"),
                    None => parameter,
                })
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap_or_default().to_owned())
                .collect();
            let named: BTreeSet<_> = path
                .split('{')
                .skip(1)
                .filter_map(|rest| rest.split_once('}'))
                .map(|(name, _)| name.to_owned())
                .collect();
            assert_eq!(declared, named, "{name}: path parameters");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        found.push(reference);
                    }
                    members.values().for_each(|member| walk(member, found));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        walk(&document, &mut found);
        assert!(!found.is_empty());
        for reference in &found {
            let pointer = reference.trim_start_matches('#');
            assert!(
                document.pointer(pointer).is_some(),
                "{reference} leads nowhere"
            );
        }
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        for name in schemas.keys() {
            let reference = format!("#/components/schemas/{name}");
            assert!(found.contains(&reference.as_str()), "{name} is not used");
        }
    }

    #[test]
    fn the_problem_schema_lists_every_code() {
        let document = document();
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let listed: Vec<_> = codes.as_array().expect("an enumeration").iter().collect();
        let all: Vec<_> = Code::ALL
            .iter()
            .map(|code| Value::from(code.as_str()))
            .collect();
        assert_eq!(listed, all.iter().collect::<Vec<_>>());
    }
}
