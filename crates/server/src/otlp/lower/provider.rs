//! The names of providers, each in its one form.
//!
//! Source: docs/otel-mapping.md, "Provider values".

/// Other spellings, in lower case, and the well-known value.
static SPELLINGS: &[(&str, &str)] = &[
    ("amazon", "aws.bedrock"),
    ("aws", "aws.bedrock"),
    ("az.ai.inference", "azure.ai.inference"),
    ("az.ai.openai", "azure.ai.openai"),
    ("azure", "azure.ai.openai"),
    ("google", "gcp.gen_ai"),
    ("mistralai", "mistral_ai"),
    ("vertexai", "gcp.vertex_ai"),
    ("xai", "x_ai"),
];

/// The well-known values, which some emitters write with capitals.
static KNOWN: &[&str] = &[
    "anthropic",
    "aws.bedrock",
    "azure.ai.inference",
    "azure.ai.openai",
    "cohere",
    "deepseek",
    "gcp.gemini",
    "gcp.gen_ai",
    "gcp.vertex_ai",
    "groq",
    "ibm.watsonx.ai",
    "mistral_ai",
    "moonshot_ai",
    "openai",
    "perplexity",
    "x_ai",
];

/// The one form of a provider's name; a name not known is kept as it is.
pub(crate) fn normalised(name: &str) -> &str {
    let spelling = SPELLINGS
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, known)| *known);
    spelling
        .or_else(|| {
            KNOWN
                .iter()
                .copied()
                .find(|known| known.eq_ignore_ascii_case(name))
        })
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::normalised;

    #[test]
    fn providers_have_one_name_each_and_unknown_ones_keep_theirs() {
        for (sent, kept) in [
            ("openai", "openai"),
            ("OpenAI", "openai"),
            ("xai", "x_ai"),
            ("azure", "azure.ai.openai"),
            ("MistralAI", "mistral_ai"),
            ("Anthropic", "anthropic"),
            ("google", "gcp.gen_ai"),
            ("My-Own", "My-Own"),
        ] {
            assert_eq!(normalised(sent), kept);
        }
    }
}
