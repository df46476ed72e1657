//! `pccs.json`: the requests of the collateral client in order, and its results for the responses.

use std::collections::HashMap;

use kms_attest::collateral::{Http, Pccs};
use kms_attest::platform::tdx::verify_quote;

use super::Directory;
use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::pki::{DevelopmentPki, middle};
use super::quotes::{is_collateral_set, is_outcome};
use super::server::{Route, Server};

type Routes = HashMap<String, Route>;

/// Responses that the peer rejects and ours accepts: services differ in the form of their revocation lists.
const READ_HERE: [&str; 1] = ["root CRL served as raw DER"];

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>, directory: &'a Directory) -> Check {
    let pki = DevelopmentPki::of_quotes(directory)?;
    let quote = file.at("quote")?.bytes()?;
    let expected = file.at("expected_collateral")?;
    is_collateral_set(expected)?;
    let normal = normal_routes(file)?;
    cases.list(file, "exchanges", move |case, notes| {
        let mut routes = normal.clone();
        routes.extend(routes_of(case.maybe("routes"))?);
        routes.extend(routes_of(case.maybe("routes_differing_from_normal"))?);
        exchange(case, routes, &quote, expected, &pki, notes)
    })
}

/// The responses that the other exchanges modify.
fn normal_routes(file: &Json) -> Check<Routes> {
    let mut exchanges = file.at("exchanges")?.list()?.iter();
    let routes = exchanges.find_map(|exchange| exchange.maybe("routes"));
    routes_of(Some(routes.ok_or_else(|| Failure("exchanges: none has routes".into()))?))
}

fn routes_of(routes: Option<&Json>) -> Check<Routes> {
    let Some(routes) = routes else { return Ok(Routes::new()) };
    let mut table = Routes::new();
    for (path, route) in routes.entries()? {
        let mut headers = Vec::new();
        for header in route.at("headers")?.list()? {
            let [name, value] = header.list()? else {
                return Err(Failure(format!("{}: is not a name and a value", header.path())));
            };
            headers.push((name.text()?.to_owned(), value.text()?.to_owned()));
        }
        let body = route.at("body")?;
        let body = match (body.maybe("hex"), body.maybe("utf8")) {
            (Some(hex), None) => hex.bytes()?,
            (None, Some(text)) => text.text()?.as_bytes().to_vec(),
            _ => return Err(Failure(format!("{}: is neither hex nor utf8", body.path()))),
        };
        let status = u16::try_from(route.at("status")?.number()?)?;
        table.insert(path.clone(), Route { status, headers, body });
    }
    Ok(table)
}

fn exchange(
    case: &Json,
    routes: Routes,
    quote: &[u8],
    expected: &Json,
    pki: &DevelopmentPki,
    notes: &mut Notes,
) -> Check {
    let server = Server::start(routes)?;
    let url = format!("{}{}", server.base(), case.at("base_url_suffix")?.text()?);
    let client = Pccs::new(&url, Http::new(&[])?, &pki.anchors)?;
    let (fetched, arrived) = server.talk(client.fetch(quote));
    let asked: Vec<String> = arrived.into_iter().map(|request| request.line).collect();
    let requests = case.at("requests")?.texts()?;
    ensure!(asked == requests, "the requests are {requests:?}, ours are {asked:?}");
    if let Some(error) = case.maybe("error") {
        error.text()?;
        let is_read = READ_HERE.contains(&case.at("name")?.text()?);
        ensure!(fetched.is_ok() == is_read, "the peer fails; ours reads it: {}", fetched.is_ok());
        return Ok(());
    }
    let collateral = fetched?;
    let mut parts = serde_json::to_value(collateral.parts())?;
    if let Some(parts) = parts.as_object_mut() {
        parts.remove("pck_certificate_chain");
    }
    let is_equal = expected.is_json(&parts).is_ok();
    case.at("collateral_equals_expected")?.is_bool(is_equal)?;
    let is_attached = collateral.pck_certificate_chain().is_some();
    case.at("pck_certificate_chain_attached")?.is_bool(is_attached)?;
    let ours = verify_quote(quote, &collateral, &pki.anchors, middle(&collateral));
    is_outcome(case.at("verify")?, quote, ours.map_err(|error| error.to_string()), notes)
}
