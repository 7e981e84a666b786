//! Metrics.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric,
    number_data_point,
};
use serde_json::json;
use server::otlp::{ExportAnswer, MetricsRequest, Signal, lower_metrics};

use super::*;

fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let mut resource = resource();
    resource.attributes.push(kv("deponent.run.id", text("run-1")));
    let scope_metrics = vec![ScopeMetrics {
        metrics,
        ..ScopeMetrics::default()
    }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics,
            ..ResourceMetrics::default()
        }],
    }
}

fn lower_request(request: &ExportMetricsServiceRequest) -> Lowered {
    let bytes = request.encode_to_vec();
    let request = MetricsRequest::decode(&bytes, Encoding::Protobuf).unwrap();
    let lowered = lower_metrics(&request, now(), &mut Salts::default());
    lowered.drafts.iter().for_each(check);
    lowered
}

fn metric(data: metric::Data) -> Metric {
    Metric {
        name: "m".into(),
        unit: "s".into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        time_unix_nano: START,
        value: Some(value),
        attributes: vec![kv("k", text("v"))],
        ..NumberDataPoint::default()
    }
}

fn all() -> Vec<Metric> {
    use number_data_point::Value::{AsDouble, AsInt};
    vec![
        metric(metric::Data::Gauge(Gauge {
            data_points: vec![number(AsDouble(0.5)), number(AsDouble(f64::NAN))],
        })),
        metric(metric::Data::Sum(Sum {
            data_points: vec![NumberDataPoint {
                start_time_unix_nano: 5,
                ..number(AsInt(i64::MAX))
            }],
            aggregation_temporality: 2,
            is_monotonic: true,
        })),
        metric(metric::Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint {
                time_unix_nano: START,
                count: 3,
                sum: Some(1.5),
                bucket_counts: vec![1, 2],
                explicit_bounds: vec![0.1],
                exemplars: vec![Exemplar::default(), Exemplar::default()],
                min: Some(0.0),
                ..HistogramDataPoint::default()
            }],
            aggregation_temporality: 1,
        })),
        metric(metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![ExponentialHistogramDataPoint {
                time_unix_nano: START,
                count: 3,
                scale: -2,
                zero_count: 1,
                positive: Some(Buckets {
                    offset: -3,
                    bucket_counts: vec![2, 300],
                }),
                ..ExponentialHistogramDataPoint::default()
            }],
            aggregation_temporality: 0,
        })),
        metric(metric::Data::Summary(Summary {
            data_points: vec![SummaryDataPoint {
                time_unix_nano: START,
                count: 2,
                sum: 4.0,
                quantile_values: vec![ValueAtQuantile {
                    quantile: 0.5,
                    value: 2.0,
                }],
                ..SummaryDataPoint::default()
            }],
        })),
    ]
}

#[test]
fn the_points_of_a_scope_are_one_record_whatever_they_measure() {
    let lowered = lower_request(&request(all()));
    assert_eq!(lowered.rejected.count, 0);
    let [draft] = &lowered.drafts[..] else {
        panic!("one record")
    };
    let body = body(draft);
    assert_eq!(
        (&body["run_id"], &body["source"]),
        (&json!("run-1"), &json!("agents"))
    );
    let points = body["points"].as_array().unwrap();
    let values: Vec<_> = points.iter().map(|point| point["value"].clone()).collect();
    assert_eq!(
        values,
        [
            json!(0.5),
            json!("NaN"),
            json!("9223372036854775807"),
            json!({"bucket_counts": [1, 2], "count": 3, "explicit_bounds": [0.1], "min": 0, "sum": 1.5}),
            json!({"count": 3, "positive": {"bucket_counts": [2, 300], "offset": -3}, "scale": -2, "zero_count": 1}),
            json!({"count": 2, "quantiles": [{"quantile": 0.5, "value": 2}], "sum": 4}),
        ]
    );
    assert_eq!(
        points[2]["attributes"],
        json!({"k": "v", "deponent.metric": {"aggregation_temporality": 2, "is_monotonic": true, "start_unix_nano": "5"}})
    );
    assert_eq!(
        points[3]["attributes"],
        json!({"deponent.metric": {"aggregation_temporality": 1, "dropped_exemplars_count": 2}})
    );
    assert_eq!(points[0]["timestamp"], "2025-11-21T09:23:20.123456Z");
    assert_eq!(draft.correlation_id.as_deref(), Some("run-1"));
}

#[test]
fn metrics_are_the_same_in_json() {
    let request = request(all());
    // The generated JSON writer writes NaN as null.
    let text = serde_json::to_string(&request)
        .unwrap()
        .replace("\"asDouble\":null", "\"asDouble\":\"NaN\"");
    let json = lower_metrics(
        &MetricsRequest::decode(text.as_bytes(), Encoding::Json).unwrap(),
        now(),
        &mut Salts::default(),
    );
    assert_eq!(json.rejected.reasons, Vec::<String>::new());
    assert_eq!(body(&json.drafts[0]), body(&lower_request(&request).drafts[0]));
}

#[test]
fn a_bad_point_rejects_itself_alone_and_no_value_is_null() {
    use number_data_point::Value::AsInt;
    let points = vec![
        number(AsInt(1)),
        NumberDataPoint {
            time_unix_nano: u64::MAX,
            ..number(AsInt(2))
        },
        NumberDataPoint {
            flags: 1,
            time_unix_nano: 0,
            value: None,
            ..number(AsInt(3))
        },
    ];
    let lowered = lower_request(&request(vec![metric(metric::Data::Gauge(Gauge {
        data_points: points,
    }))]));
    assert_eq!(lowered.rejected.count, 1);
    let body = body(&lowered.drafts[0]);
    assert_eq!(body["points"].as_array().unwrap().len(), 2);
    assert_eq!(body["points"][1]["value"], Json::Null);
    assert_eq!(body["points"][1]["timestamp"], now().to_string());
}

#[test]
fn a_metric_that_is_refused_counts_with_all_its_points() {
    let points = vec![number(number_data_point::Value::AsInt(1)); 3];
    let request = request(vec![metric(metric::Data::Gauge(Gauge { data_points: points }))]);
    let json = serde_json::to_string(&request).unwrap();
    let bad_point = json.replacen(r#""asInt":"1""#, r#""asInt":"one""#, 1);
    let bad_name = json.replace(r#""name":"m""#, r#""name":7"#);
    let no_points = json.replace(r#""gauge":{"#, r#""gauge":7,"other":{"#);
    for (text, count) in [(bad_point, 3), (bad_name, 3), (no_points, 1)] {
        assert_ne!(text, json);
        let request = MetricsRequest::decode(text.as_bytes(), Encoding::Json).unwrap();
        let lowered = lower_metrics(&request, now(), &mut Salts::default());
        assert_eq!(
            (lowered.drafts.len(), lowered.rejected.count),
            (0, count),
            "{text}"
        );
    }
    // The name, a text of one letter, is no UTF-8.
    let mut bytes = request.encode_to_vec();
    let name = bytes
        .windows(3)
        .position(|window| window == b"\x0a\x01m")
        .unwrap();
    bytes[name + 2] = 0xff;
    let request = MetricsRequest::decode(&bytes, Encoding::Protobuf).unwrap();
    let lowered = lower_metrics(&request, now(), &mut Salts::default());
    assert_eq!((lowered.drafts.len(), lowered.rejected.count), (0, 3));
}

#[test]
fn many_points_are_several_records_of_bounded_size() {
    let points: Vec<_> = (0..20_000)
        .map(|n| number(number_data_point::Value::AsInt(n)))
        .collect();
    let lowered = lower_request(&request(vec![metric(metric::Data::Gauge(Gauge {
        data_points: points,
    }))]));
    assert!(lowered.drafts.len() > 1);
    let total: usize = lowered
        .drafts
        .iter()
        .map(|draft| body(draft)["points"].as_array().unwrap().len())
        .sum();
    assert_eq!(total, 20_000);
    assert!(
        lowered
            .drafts
            .iter()
            .all(|draft| body_bytes(draft).len() < 1_100_000)
    );
}

#[test]
fn the_answer_says_how_many_were_refused_and_why() {
    let bad = NumberDataPoint {
        time_unix_nano: u64::MAX,
        ..NumberDataPoint::default()
    };
    let lowered = lower_request(&request(vec![metric(metric::Data::Gauge(Gauge {
        data_points: vec![bad; 7],
    }))]));
    let answer = ExportAnswer::new(&lowered.rejected);
    let partial = answer.clone().metrics().partial_success.unwrap();
    assert_eq!(partial.rejected_data_points, 7);
    assert!(
        partial.error_message.contains("point 0 of metric \"m\"")
            && partial.error_message.ends_with("and others")
    );
    let json: Json = serde_json::from_slice(&answer.encode(Signal::Metrics, Encoding::Json)).unwrap();
    assert_eq!(json["partialSuccess"]["rejectedDataPoints"], "7");

    let whole = ExportAnswer::new(&server::otlp::Rejections::default());
    assert_eq!(
        whole.clone().encode(Signal::Traces, Encoding::Protobuf),
        Vec::<u8>::new()
    );
    assert_eq!(whole.encode(Signal::Logs, Encoding::Json), b"{}");
}

#[test]
fn points_say_which_run_which_traces_and_which_instance_they_belong_to() {
    let exemplar = |trace: u8| Exemplar {
        trace_id: vec![trace; 16],
        span_id: vec![1; 8],
        ..Exemplar::default()
    };
    let histogram = HistogramDataPoint {
        time_unix_nano: START,
        exemplars: vec![
            exemplar(2),
            exemplar(1),
            exemplar(2),
            exemplar(0),
            Exemplar::default(),
        ],
        ..HistogramDataPoint::default()
    };
    let of_run = NumberDataPoint {
        attributes: vec![kv("deponent.run.id", text("run-2"))],
        exemplars: vec![exemplar(3)],
        ..number(number_data_point::Value::AsInt(1))
    };
    let mut request = request(vec![
        metric(metric::Data::Histogram(Histogram {
            data_points: vec![histogram],
            aggregation_temporality: 1,
        })),
        metric(metric::Data::Gauge(Gauge {
            data_points: vec![of_run],
        })),
    ]);
    let attributes = &mut request.resource_metrics[0].resource.as_mut().unwrap().attributes;
    attributes.retain(|attribute| attribute.key != "deponent.run.id");
    attributes.push(kv("service.instance.id", text("agents-7")));
    let lowered = lower_request(&request);
    let [draft] = &lowered.drafts[..] else {
        panic!("one record")
    };
    let body = body(draft);
    let hex = |byte: &str| byte.repeat(16);
    assert_eq!(body["instance"], "agents-7");
    assert_eq!(body["run_id"], Json::Null);
    assert_eq!(body["run_ids"], json!(["run-2"]));
    assert_eq!(body["trace_ids"], json!([hex("01"), hex("02"), hex("03")]));
    let metric = &body["points"][0]["attributes"]["deponent.metric"];
    assert_eq!(
        (&metric["exemplar_trace_ids"], &metric["dropped_exemplars_count"]),
        (&json!([hex("01"), hex("02")]), &json!(5)),
        "how many there were, and the traces that they name"
    );
}

#[test]
fn a_record_of_points_names_a_bounded_number_of_runs_and_traces() {
    let point = |n: u16| {
        let [high, low] = n.to_be_bytes();
        NumberDataPoint {
            attributes: vec![kv("deponent.run.id", text(&format!("run-{n}")))],
            exemplars: vec![Exemplar {
                trace_id: [[high, low].repeat(7), vec![1, 1]].concat(),
                ..Exemplar::default()
            }],
            ..number(number_data_point::Value::AsInt(1))
        }
    };
    let mut many = point(999);
    many.exemplars = (1..=200_u8)
        .map(|byte| Exemplar {
            trace_id: vec![byte; 16],
            ..Exemplar::default()
        })
        .collect();
    let lowered = lower_request(&request(vec![metric(metric::Data::Gauge(Gauge {
        data_points: (0..600).map(point).chain([many]).collect(),
    }))]));
    let bodies: Vec<_> = lowered.drafts.iter().map(body).collect();
    let count = |name: &str| -> Vec<usize> {
        let lists = bodies
            .iter()
            .map(|body| body[name].as_array().map_or(0, Vec::len));
        lists.collect()
    };
    assert_eq!(
        (count("points"), count("run_ids")),
        (vec![256, 256, 89], vec![256, 256, 89])
    );
    assert_eq!(
        count("trace_ids"),
        [256, 256, 88 + 64],
        "of the exemplars of one point the first 64 traces"
    );
}
