//! The methods of `kms.proto` with their options of `access.proto`, and the Rust code generated from them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _,
    ServiceDescriptor, Value,
};

pub(crate) struct Service {
    /// Its name in the proto file.
    name: String,
    methods: Vec<Method>,
}

pub(crate) struct Method {
    /// Its name in the proto file.
    name: String,
    /// Its variant of `Method`.
    variant: String,
    /// The Rust types of its messages.
    request: String,
    response: String,
    access: String,
    reach: String,
    while_stale: String,
    body_bytes: u64,
    get: String,
}

/// All services of the package `kms`.
pub(crate) fn read(pool: &DescriptorPool) -> Result<Vec<Service>, String> {
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "kms").collect();
    let in_two_services = |name: &str| {
        services.iter().flat_map(ServiceDescriptor::methods).filter(|method| method.name() == name).count()
            > 1
    };
    services
        .iter()
        .map(|service| {
            let methods = service.methods().map(|method| {
                let prefix =
                    if in_two_services(method.name()) { camel(service.name()) } else { String::new() };
                method_of(&method, prefix + method.name())
            });
            Ok(Service { name: service.name().to_owned(), methods: methods.collect::<Result<_, String>>()? })
        })
        .collect()
}

fn method_of(method: &MethodDescriptor, variant: String) -> Result<Method, String> {
    if method.is_client_streaming() || method.is_server_streaming() {
        return Err(format!("{}: a method has one request and one answer", method.full_name()));
    }
    let rule = method
        .parent_pool()
        .get_extension_by_name("cvm_kms.rule")
        .map(|extension| method.options().get_extension(&extension).into_owned());
    let Some(Value::Message(rule)) = rule else {
        return Err("proto/access.proto declares no option `rule`".to_owned());
    };
    let chosen = |field: &str| {
        let missing = format!("{}: its option (cvm_kms.rule) names no {field}", method.full_name());
        enum_value(&rule, field).ok_or(missing)
    };
    let body_kib = rule.get_field_by_name("body_kib").and_then(|value| value.as_u32()).unwrap_or(0);
    if body_kib == 0 {
        return Err(format!("{}: its option (cvm_kms.rule) names no body_kib", method.full_name()));
    }
    Ok(Method {
        name: method.name().to_owned(),
        variant,
        request: rust_type(&method.input()),
        response: rust_type(&method.output()),
        access: access_of(method, &rule, &chosen("access")?)?,
        reach: reach_of(method, &rule)?,
        while_stale: while_stale_of(method, &rule)?,
        body_bytes: u64::from(body_kib) * 1024,
        get: camel(chosen("get")?.trim_start_matches("BY_")),
    })
}

/// The variant of `Access`; those of operators hold the role that is needed.
fn access_of(method: &MethodDescriptor, rule: &DynamicMessage, access: &str) -> Result<String, String> {
    let role = enum_value(rule, "role").map(|role| camel(role.trim_start_matches("ROLE_")));
    match (access.starts_with("OPERATOR"), role) {
        (true, Some(role)) => Ok(format!("{}(Role::{role})", camel(access))),
        (false, None) => Ok(camel(access)),
        (true, None) => Err(format!("{}: its option (cvm_kms.rule) names no role", method.full_name())),
        (false, Some(_)) => Err(format!("{}: only methods of operators have a role", method.full_name())),
    }
}

/// The variant of `Reach`: the whole KMS unless the option says otherwise, so that nobody whose credential is limited calls a
/// method by mistake.
fn reach_of(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<String, String> {
    match enum_value(rule, "reach") {
        None => Ok("WholeKms".to_owned()),
        Some(_) if enum_value(rule, "role").is_none() => {
            Err(format!("{}: only methods of operators have a reach", method.full_name()))
        }
        Some(reach) => Ok(camel(reach.trim_start_matches("REACH_"))),
    }
}

/// The variant of `WhileStale`.
fn while_stale_of(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<String, String> {
    let chosen = enum_value(rule, "while_stale");
    let changes = match enum_value(rule, "role").as_deref() {
        None if chosen.is_some() => {
            return Err(format!("{}: only methods of operators have while_stale", method.full_name()));
        }
        None | Some("ROLE_VIEWER" | "ROLE_AUDITOR") => false,
        Some(_) => chosen.is_none(),
    };
    Ok(if changes { "Nothing" } else { "All" }.to_owned())
}

/// The name of a value that was chosen.
fn enum_value(rule: &DynamicMessage, field: &str) -> Option<String> {
    let value = rule.get_field_by_name(field)?.as_enum_number().filter(|number| *number != 0)?;
    let kind = rule.descriptor().get_field_by_name(field)?.kind();
    Some(kind.as_enum()?.get_value(value)?.name().to_owned())
}

fn rust_type(message: &MessageDescriptor) -> String {
    match message.full_name() {
        "google.protobuf.Empty" => "()".to_owned(),
        _ => format!("crate::proto::{}", message.name()),
    }
}

/// `KMS` and `ATTESTED_MESSAGE` as Rust types: `Kms`, `AttestedMessage`; `Onboard` stays.
fn camel(name: &str) -> String {
    let word = |word: &str| match word.chars().all(|letter| letter.is_ascii_uppercase()) {
        true => word[..1].to_owned() + &word[1..].to_ascii_lowercase(),
        false => word.to_owned(),
    };
    name.split('_').map(word).collect()
}

/// `GetAppKey` as a Rust function: `get_app_key`.
fn snake(name: &str) -> String {
    let letter = |(at, letter): (usize, char)| match letter.is_ascii_uppercase() && at > 0 {
        true => format!("_{}", letter.to_ascii_lowercase()),
        false => letter.to_ascii_lowercase().to_string(),
    };
    name.chars().enumerate().map(letter).collect()
}

/// `Method` and `METHODS`.
pub(crate) fn table(services: &[Service]) -> String {
    let mut variants = String::new();
    let mut rows = String::new();
    for service in services {
        for method in &service.methods {
            let Method { name, variant, access, reach, while_stale, body_bytes, get, .. } = method;
            let (of, kind) = (&service.name, camel(&service.name));
            let _ = writeln!(variants, "    /// `{of}.{name}`\n    {variant},");
            let _ = writeln!(
                rows,
                "    Row {{ method: Method::{variant}, service: Service::{kind}, name: {name:?}, \
                 access: Access::{access}, reach: Reach::{reach}, while_stale: WhileStale::{while_stale}, body_limit: {body_bytes}, by_get: ByGet::{get} }},"
            );
        }
    }
    let count = services.iter().map(|service| service.methods.len()).sum::<usize>();
    format!(
        "/// One method of the API.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]\npub enum Method {{\n{variants}}}\n\n\
         /// Every method there is.\npub const METHODS: [Row; {count}] = [\n{rows}];\n"
    )
}

/// `Method::visit_request`: the type of each method's request.
pub(crate) fn requests(services: &[Service]) -> String {
    let mut arms = String::new();
    for Method { variant, request, .. } in services.iter().flat_map(|service| &service.methods) {
        let call = match request.strip_prefix("crate::proto::") {
            Some(message) => format!("message::<crate::message::{message}>()"),
            None => "nothing()".to_owned(),
        };
        let _ = writeln!(arms, "            Self::{variant} => visitor.{call},");
    }
    format!(
        "impl Method {{\n    /// Calls the function of `visitor` for the type of the method's request.\n    \
         pub fn visit_request<V: RequestVisitor>(self, visitor: V) -> V::Output {{\n        \
         match self {{\n{arms}        }}\n    }}\n}}\n"
    )
}

/// `NAMES`: the names that a table of limits may use.
pub(crate) fn names(services: &[Service]) -> String {
    let names: BTreeSet<&str> =
        services.iter().flat_map(|service| &service.methods).map(|method| &*method.name).collect();
    format!(
        "/// The names of all methods, each once: what a table of limits can have.\npub const NAMES: [&str; {}] = {names:?};\n",
        names.len()
    )
    .replace('{', "[")
    .replace('}', "]")
}

/// The calls of each method by prpc and gRPC: an async function of its service with the method's name, which
/// takes the caller and the request.
pub(crate) fn dispatch(services: &[Service]) -> String {
    let mut code = String::new();
    for service in services {
        let kind = camel(&service.name);
        let mut arms = String::new();
        let mut functions = String::new();
        for Method { name, variant, access, request, response, .. } in &service.methods {
            let function = snake(name);
            let call = format!("async |caller, request| self.0.{function}(caller, request).await");
            let prpc = match request.as_str() {
                "()" => format!("nullary::<{response}, _>(async || self.{function}(caller, ()).await)"),
                _ => format!(
                    "unary::<{request}, {response}, _>(async |request| {{ {} }})",
                    // Boxed, because futures of open methods would otherwise have the size of the others.
                    match access.as_str() {
                        "Open" => format!("self.{function}(caller, request).await"),
                        _ => format!("Box::pin(self.{function}(caller, request)).await"),
                    }
                ),
            };
            let _ = writeln!(arms, "            Method::{variant} => call.{prpc}.await,");
            let _ = writeln!(
                functions,
                "    async fn {function}(&self, request: tonic::Request<{request}>) -> grpc::GrpcResult<{response}> {{\n        \
                 grpc::unary(Method::{variant}, request, {call}).await\n    }}"
            );
        }
        let others: Vec<_> = services
            .iter()
            .filter(|other| other.name != service.name)
            .flat_map(|other| &other.methods)
            .map(|method| format!("Method::{}", method.variant))
            .collect();
        let others = others.join(" | ");
        let module = snake(&kind);
        let _ = writeln!(
            code,
            "impl Dispatch for {kind}Service {{\n    const SERVICE: Service = Service::{kind};\n\n    \
             async fn call(&self, method: Method, caller: &Caller, call: Call) -> Result<Bytes> {{\n        \
             match method {{\n{arms}            {others} => Err(elsewhere(method)),\n        }}\n    }}\n}}\n\n\
             #[tonic::async_trait]\nimpl crate::proto::{module}_server::{kind} for grpc::Served<{kind}Service> {{\n{functions}}}\n"
        );
    }
    code
}
