//! The agents, what they are asked and what they do: words alone.

use super::{Agent, Call, Rule, Task};

const fn call(
    tool: &'static str,
    why: &'static str,
    arguments: &'static str,
    results: &'static [&'static str],
    breaks: &'static [&'static str],
) -> Call {
    Call {
        tool,
        why,
        arguments,
        results,
        breaks,
        nested: false,
    }
}

static REFUND_LIMIT: Rule = Rule {
    id: "refund-limit-200",
    allows: &[
        "{amount} EUR is within what may be refunded without a person",
        "the parcel is recorded as damaged, a refund of {amount} EUR is covered",
    ],
    denies: &[
        "refunds above 200 EUR need a person, this one is {high} EUR",
        "customer {customer} has had three refunds this quarter, a person must decide",
    ],
};
static PAYMENT_RULE: Rule = Rule {
    id: "payment-four-eyes",
    allows: &[
        "the supplier is known and the invoice matches order {order}",
        "below 5,000 EUR one approval is enough",
    ],
    denies: &[
        "the bank account of the supplier changed nine days ago, payments wait for a call back",
        "an invoice of {high}0 EUR needs two approvals, it has one",
    ],
};
static CHANGE_RULE: Rule = Rule {
    id: "change-window",
    allows: &[
        "{service} may be restarted at any time",
        "the change is inside the maintenance window",
    ],
    denies: &[
        "{service} is frozen until Monday for the quarter's close",
        "error budget of {service} is used up, no change without its owner",
    ],
};
static REPOSITORY_RULE: Rule = Rule {
    id: "no-push-to-main",
    allows: &["the branch is the agent's own", "tests ran green on this commit"],
    denies: &[
        "the change touches {file}, which its owners keep for themselves",
        "the commit contains what looks like a credential",
    ],
};

pub(in super::super) static AGENTS: &[Agent] = &[
    Agent {
        name: "support-agent",
        service: "support-desk",
        version: "4.12.0",
        system: "You help customers of an online shop. Look up before you answer. Be brief and kind.",
        models: &[0, 1, 2],
        tasks: &[
            Task {
                ask: &[
                    "My {product} arrived with a broken corner, order {order}. I would like my money back.",
                    "Order {order}: the {product} does not switch on. Please refund the {amount} euros.",
                    "I sent back the {product} from {order} two weeks ago and have not seen the refund.",
                ],
                calls: &[
                    call(
                        "get_order",
                        "I look up order {order}.",
                        r#"{"order_id":"{order}"}"#,
                        &[
                            r#"{"order_id":"{order}","item":"{product}","paid_eur":{amount},"delivered":"{date}","carrier":"DHL"}"#,
                        ],
                        &[
                            "no connection to the order database",
                            "order {order} is locked by another process",
                        ],
                    ),
                    call(
                        "get_policy",
                        "I check what the refund policy says about a {product}.",
                        r#"{"topic":"refund","category":"{product}"}"#,
                        &[
                            r#"{"days":30,"needs_photo":true,"limit_eur":200}"#,
                            r#"{"days":60,"needs_photo":false,"limit_eur":200}"#,
                        ],
                        &["policy service answered 502"],
                    ),
                    call(
                        "issue_refund",
                        "It arrived within the time allowed, so I refund {amount} euros.",
                        r#"{"order_id":"{order}","amount_eur":{amount},"reason":"damaged"}"#,
                        &[
                            r#"{"refund_id":"rf_{n}","status":"booked"}"#,
                            r#"{"refund_id":"rf_{n}","status":"booked","arrives_in_days":3}"#,
                        ],
                        &[
                            "payment provider refused: the original card has expired",
                            "refund of {amount} EUR exceeds the captured amount",
                        ],
                    ),
                ],
                answer: &[
                    "I am sorry about the {product}. {amount} euros are on their way back to you and arrive within three days.",
                    "Your refund of {amount} euros for order {order} is booked. You do not have to send the {product} back.",
                ],
                rule: Some(&REFUND_LIMIT),
                loops: false,
                looks_up: false,
            },
            Task {
                ask: &[
                    "Where is my parcel? Order {order}, it should have been in {city} on {date}.",
                    "Tracking for {order} has not moved since {date}. Is it lost?",
                    "Can the {product} still be sent to {city} instead? Order {order}.",
                ],
                calls: &[
                    call(
                        "get_order",
                        "First the order.",
                        r#"{"order_id":"{order}"}"#,
                        &[
                            r#"{"order_id":"{order}","item":"{product}","shipped":"{date}","tracking":"JD{n}"}"#,
                        ],
                        &["timeout on orders-replica-2"],
                    ),
                    call(
                        "track_parcel",
                        "Now the carrier.",
                        r#"{"tracking":"JD{n}","carrier":"DHL"}"#,
                        &[
                            r#"{"state":"in_transit","place":"{city}","expected":"tomorrow"}"#,
                            r#"{"state":"held_at_depot","place":"{city}","since":"{date}"}"#,
                        ],
                        &["the carrier's interface is down for maintenance"],
                    ),
                ],
                answer: &[
                    "Your {product} is at the depot in {city} and is delivered tomorrow.",
                    "The parcel is on its way and was last seen in {city}. I have asked the carrier to hurry.",
                ],
                rule: None,
                loops: false,
                looks_up: false,
            },
            Task {
                ask: &[
                    "How do I pair the {product} with two phones?",
                    "Does the {product} work in {city} with 110 volts?",
                    "The manual of the {product} is missing. How do I reset it?",
                ],
                calls: &[call(
                    "search_documents",
                    "I search the manuals for the {product}.",
                    r#"{"query":"{product}","limit":5}"#,
                    &[
                        r#"{"hits":[{"title":"{product}: quick start","score":0.83},{"title":"{product}: frequent questions","score":0.71}]}"#,
                    ],
                    &["index is being rebuilt"],
                )],
                answer: &[
                    "Hold the round button for eight seconds until the light blinks, then choose the {product} in the settings.",
                    "Yes. The {product} takes 100 to 240 volts; you only need an adapter for the plug.",
                ],
                rule: None,
                loops: false,
                looks_up: true,
            },
        ],
    },
    Agent {
        name: "billing-agent",
        service: "billing",
        version: "2.3.1",
        system: "You check incoming invoices against orders and prepare payments. Never guess an amount.",
        models: &[0, 4, 5],
        tasks: &[
            Task {
                ask: &[
                    "Check invoice {invoice} from {supplier} over {high} EUR and pay it if it is right.",
                    "{supplier} reminds us of {invoice}. Has it been paid?",
                ],
                calls: &[
                    call(
                        "read_file",
                        "I read the invoice.",
                        r#"{"path":"invoices/{invoice}.pdf"}"#,
                        &[r#"{"supplier":"{supplier}","total_eur":{high},"due":"{date}","lines":4}"#],
                        &["{invoice}.pdf is damaged: no page tree"],
                    ),
                    call(
                        "run_sql",
                        "I compare it with the order.",
                        r#"{"sql":"select id, total from orders where supplier = '{supplier}' and id = '{order}'"}"#,
                        &[
                            r#"{"rows":[["{order}",{high}]]}"#,
                            r#"{"rows":[["{order}",{high}],["{order}-2",{amount}]]}"#,
                        ],
                        &[
                            "permission denied for table orders",
                            "canceling statement due to statement timeout",
                        ],
                    ),
                    call(
                        "schedule_payment",
                        "Amounts agree. I schedule the payment.",
                        r#"{"invoice":"{invoice}","amount_eur":{high},"date":"{date}"}"#,
                        &[r#"{"payment":"pay_{n}","state":"scheduled"}"#],
                        &["the ledger period {date} is closed"],
                    ),
                ],
                answer: &[
                    "{invoice} agrees with order {order}. {high} EUR go to {supplier} on {date}.",
                    "Paid: {invoice}, {high} EUR. The lines match the order, no discount was missed.",
                ],
                rule: Some(&PAYMENT_RULE),
                loops: false,
                looks_up: false,
            },
            Task {
                ask: &[
                    "Reconcile the bank statement of {date} with the open items of {city}.",
                    "Which payments of {date} could not be assigned, and why?",
                ],
                calls: &[
                    call(
                        "run_sql",
                        "I take the next unmatched lines.",
                        r#"{"sql":"select * from statement where booked = '{date}' and matched is null limit 20"}"#,
                        &[
                            r#"{"rows":20,"sum_eur":{high}}"#,
                            r#"{"rows":7,"sum_eur":{amount}}"#,
                        ],
                        &["deadlock detected"],
                    ),
                    call(
                        "match_payments",
                        "I match them by reference, then by amount.",
                        r#"{"lines":{n},"tolerance_eur":0.01}"#,
                        &[r#"{"matched":18,"open":2}"#, r#"{"matched":7,"open":0}"#],
                        &["two customers share the reference {order}"],
                    ),
                ],
                answer: &[
                    "All but two lines are matched. The two are over {amount} EUR from {supplier} without a reference.",
                    "Everything of {date} is assigned; the difference is 0.00 EUR.",
                ],
                rule: None,
                loops: true,
                looks_up: false,
            },
        ],
    },
    Agent {
        name: "research-agent",
        service: "research",
        version: "0.9.4",
        system: "You read sources and write findings with references. Say what you do not know.",
        models: &[2, 3],
        tasks: &[Task {
            ask: &[
                "What is known about {topic}? Two pages with sources, please.",
                "Compare the three most cited positions on {topic}.",
                "Is there evidence after 2024 that changes our view of {topic}?",
            ],
            calls: &[
                call(
                    "web_search",
                    "I search for recent work on {topic}.",
                    r#"{"query":"{topic} review","from":"2024"}"#,
                    &[
                        r#"{"results":{n},"best":"{topic}: a review of forty studies"}"#,
                        r#"{"results":{n},"best":"Reconsidering {topic}"}"#,
                    ],
                    &["search quota for today is used up"],
                ),
                call(
                    "fetch_page",
                    "I read the first one in full.",
                    r#"{"url":"https://journal.example/{n}"}"#,
                    &[
                        r#"{"words":6120,"says":"effects of {topic} are smaller than reported, 95 % interval 0.1 to 0.3"}"#,
                        r#"{"words":3804,"says":"no effect of {topic} in the preregistered sample"}"#,
                    ],
                    &["403 Forbidden: a subscription is needed"],
                ),
                Call {
                    tool: "summary-agent",
                    why: "Summarise what the sources say about {topic}, with page numbers.",
                    arguments: r#"{"query":"{topic}","limit":10}"#,
                    results: &[
                        "Five sources agree that {topic} matters less than assumed; one disagrees with a small sample (n = {n}).",
                        "The sources on {topic} measure different things; only two can be compared.",
                    ],
                    breaks: &["no source is left after filtering"],
                    nested: true,
                },
            ],
            answer: &[
                "Findings on {topic}: the effect is real but small; the two larger studies disagree on its cause. Sources are attached.",
                "In short: {topic} has been studied often and rarely well. I would not rely on figures from before 2024.",
            ],
            rule: None,
            loops: true,
            looks_up: true,
        }],
    },
    Agent {
        name: "ops-agent",
        service: "ops-bot",
        version: "1.20.3",
        system: "You are on call. Find the cause before you change anything, and prefer what can be undone.",
        models: &[1, 2, 3],
        tasks: &[
            Task {
                ask: &[
                    "Alert: error rate of {service} above 5 % in {city} for ten minutes.",
                    "{service} answers slowly since the release of {date}. Find out why.",
                    "Disk of {service} in {city} is 92 % full.",
                ],
                calls: &[
                    call(
                        "query_metrics",
                        "What do the figures say?",
                        r#"{"expr":"rate(http_errors{service=\"{service}\"}[5m])","last":"1h"}"#,
                        &[
                            r#"{"max":0.081,"since":"{date}"}"#,
                            r#"{"max":0.012,"p99_ms":{n}}"#,
                        ],
                        &["query would load more than 50,000,000 samples"],
                    ),
                    call(
                        "read_logs",
                        "I look at the logs around the first errors.",
                        r#"{"service":"{service}","level":"error","limit":50}"#,
                        &[
                            r#"{"lines":50,"most":"connection pool exhausted (max {n})"}"#,
                            r#"{"lines":12,"most":"out of memory, worker {n} killed"}"#,
                        ],
                        &["log store: shard 7 is not available"],
                    ),
                    call(
                        "restart_service",
                        "A rolling restart of {service} frees the pool.",
                        r#"{"service":"{service}","strategy":"rolling"}"#,
                        &[
                            r#"{"restarted":6,"failed":0}"#,
                            r#"{"restarted":3,"failed":0,"seconds":{n}}"#,
                        ],
                        &["pod 2 of {service} did not become ready"],
                    ),
                ],
                answer: &[
                    "{service} had run out of connections. After a rolling restart errors are back to 0.1 %; a ticket for the pool's size is open.",
                    "The release of {date} leaks memory. {service} is restarted and stable; please roll it back by daylight.",
                ],
                rule: Some(&CHANGE_RULE),
                loops: false,
                looks_up: false,
            },
            Task {
                ask: &[
                    "Rotate the certificates of {service} before {date}.",
                    "Make the weekly capacity report for {city}.",
                ],
                calls: &[
                    call(
                        "list_hosts",
                        "Which machines are concerned?",
                        r#"{"service":"{service}","site":"{city}"}"#,
                        &[r#"{"hosts":{n}}"#],
                        &["inventory is read-only during the sync"],
                    ),
                    call(
                        "run_playbook",
                        "I run the next part of it.",
                        r#"{"book":"certificates","limit":"{service}"}"#,
                        &[
                            r#"{"ok":12,"changed":12,"failed":0}"#,
                            r#"{"ok":12,"changed":0,"failed":0}"#,
                        ],
                        &["host node-{n} cannot be reached"],
                    ),
                ],
                answer: &[
                    "Done: every machine of {service} has new certificates, valid for 90 days.",
                    "Capacity in {city}: processors 41 %, memory 63 %, disks 58 %. {service} grows fastest.",
                ],
                rule: None,
                loops: true,
                looks_up: false,
            },
        ],
    },
    Agent {
        name: "coding-agent",
        service: "code-assistant",
        version: "3.0.0-rc.2",
        system: "You change code in small steps and run the tests after each.",
        models: &[0, 2, 3],
        tasks: &[Task {
            ask: &[
                "{file} fails for empty input (ticket {order}). Please fix it with a test.",
                "Rename the setting `{service}` everywhere and keep the old name working.",
                "The test in {file} is flaky. Find out why.",
            ],
            calls: &[
                call(
                    "read_file",
                    "I read {file}.",
                    r#"{"path":"{file}"}"#,
                    &[
                        r#"{"lines":{n},"language":"python"}"#,
                        r#"{"lines":{n},"language":"rust"}"#,
                    ],
                    &["{file}: no such file"],
                ),
                call(
                    "edit_file",
                    "The bounds check is missing. I add it.",
                    r#"{"path":"{file}","insert_after":{n},"text":"if not rows: return []"}"#,
                    &[r#"{"changed_lines":3}"#, r#"{"changed_lines":11}"#],
                    &["the text to replace occurs twice"],
                ),
                call(
                    "run_tests",
                    "Do the tests pass now?",
                    r#"{"select":"{file}"}"#,
                    &[
                        r#"{"passed":48,"failed":0,"seconds":6.1}"#,
                        r#"{"passed":47,"failed":1,"first":"test_empty_input"}"#,
                    ],
                    &["collection failed: no module named 'pandas'"],
                ),
                call(
                    "open_pull_request",
                    "I open a pull request.",
                    r#"{"branch":"fix/{order}","title":"Handle empty input in {file}"}"#,
                    &[r#"{"number":{n},"checks":"running"}"#],
                    &["the branch is 14 commits behind"],
                ),
            ],
            answer: &[
                "{file} returns an empty list for empty input now; the test from ticket {order} passes.",
                "The test depended on the order of a set. It sorts now, and ran a hundred times without failing.",
            ],
            rule: Some(&REPOSITORY_RULE),
            loops: true,
            looks_up: false,
        }],
    },
];
