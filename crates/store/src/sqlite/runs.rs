//! Rows of `runs`: written, read back, listed.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, Transaction, params_from_iter};

use evidence::{Declared, ExecutionStatus, NanoCents, RunState, Timestamp, TraceStatus};

use super::{as_i64, as_u32, as_u64, damaged, unavailable};
use crate::{LeafKey, RunKey, RunPage, RunQuery, RunRow, StoreError};

pub(super) const COLUMNS: &str = "run, run_id, started_leaf, trace_id, correlation_id, agent_id, parent_run_id, source, \
     is_synthetic, seed, plan_hash, otlp, started_at, created_at, status, execution_status, completed_at, provider, \
     model, input_tokens, output_tokens, cost_nano_cents, total_steps, success_count, failure_count, duration_micros, \
     root_hash, late_count, record_count, last_recorded_at, first_inference_at, declared, settled, \
     tenant_no";

pub(super) fn upsert(transaction: &Transaction<'_>, rows: &[RunRow]) -> rusqlite::Result<()> {
    // Most records only add to a run. SQLite writes every index that an UPDATE names a column of, also when
    // its value stays: six pages for each step of a run. So this one names none.
    let mut add = transaction.prepare_cached(
        "UPDATE runs SET correlation_id = ?2, started_at = ?3, completed_at = ?4, input_tokens = ?5, output_tokens = ?6,
           cost_nano_cents = ?7, total_steps = ?8, success_count = ?9, failure_count = ?10, duration_micros = ?11,
           late_count = ?12, record_count = ?13, last_recorded_at = ?14, first_inference_at = ?15, declared = ?16
         WHERE run = ?1 AND agent_id IS ?17 AND status = ?18 AND execution_status = ?19 AND provider IS ?20
           AND model IS ?21 AND root_hash IS ?22 AND settled = ?23",
    )?;
    // What the first record said never changes; the rest is what the records add up to now.
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO runs (tenant_no, run, run_id, started_leaf, trace_id, correlation_id, agent_id, parent_run_id,
           source, is_synthetic, seed, plan_hash, otlp, started_at, created_at, status, execution_status, completed_at,
           provider, model, input_tokens, output_tokens, cost_nano_cents, total_steps, success_count, failure_count,
           duration_micros, root_hash, late_count, record_count, last_recorded_at, first_inference_at, declared, settled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
           ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34)
         ON CONFLICT (run) DO UPDATE SET correlation_id = ?6, agent_id = ?7, started_at = ?14, status = ?16,
           execution_status = ?17, completed_at = ?18, provider = ?19, model = ?20, input_tokens = ?21,
           output_tokens = ?22, cost_nano_cents = ?23, total_steps = ?24, success_count = ?25, failure_count = ?26,
           duration_micros = ?27, root_hash = ?28, late_count = ?29, record_count = ?30, last_recorded_at = ?31,
           first_inference_at = ?32, declared = ?33, settled = ?34",
    )?;
    for RunRow {
        key,
        started_leaf,
        state,
    } in rows
    {
        let added = add.execute(rusqlite::params![
            key.as_i64(),
            state.correlation_id,
            state.started_at.as_micros(),
            state.completed_at.map(Timestamp::as_micros),
            state.input_tokens,
            state.output_tokens,
            state.cost.get(),
            state.total_steps,
            state.success_count,
            state.failure_count,
            state.duration_micros,
            state.late_count,
            as_i64(state.record_count),
            state.last_recorded_at.as_micros(),
            state.first_inference_at.map(Timestamp::as_micros),
            state.declared.bits(),
            state.agent_id,
            state.status.as_str(),
            state.execution_status.as_str(),
            state.provider,
            state.model,
            state.root_hash.as_ref().map(<[u8; 32]>::as_slice),
            state.settled,
        ])?;
        if added == 1 {
            continue;
        }
        upsert.execute(rusqlite::params![
            key.tenant_no(),
            key.as_i64(),
            state.run_id,
            started_leaf.as_i64(),
            state.trace_id,
            state.correlation_id,
            state.agent_id,
            state.parent_run_id,
            state.source,
            state.is_synthetic,
            state.seed,
            state.plan_hash,
            state.otlp,
            state.started_at.as_micros(),
            state.created_at.as_micros(),
            state.status.as_str(),
            state.execution_status.as_str(),
            state.completed_at.map(Timestamp::as_micros),
            state.provider,
            state.model,
            state.input_tokens,
            state.output_tokens,
            state.cost.get(),
            state.total_steps,
            state.success_count,
            state.failure_count,
            state.duration_micros,
            state.root_hash.as_ref().map(<[u8; 32]>::as_slice),
            state.late_count,
            as_i64(state.record_count),
            state.last_recorded_at.as_micros(),
            state.first_inference_at.map(Timestamp::as_micros),
            state.declared.bits(),
            state.settled,
        ])?;
    }
    Ok(())
}

/// Reads a row of [`COLUMNS`].
pub(super) fn from_row(row: &Row<'_>) -> Result<RunRow, StoreError> {
    let get_err = |error: rusqlite::Error| damaged("runs", error);
    macro_rules! get {
        ($i:literal) => {
            row.get($i).map_err(get_err)?
        };
    }
    // Filters and indexes compare with 0 and 1, so nothing else may pass for true.
    let truth = |place, number: i64| match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(damaged(place, "neither 0 nor 1")),
    };
    let time = |place, micros: i64| Timestamp::from_micros(micros).ok_or_else(|| damaged(place, "no time"));
    let time_opt = |place, micros: Option<i64>| micros.map(|micros| time(place, micros)).transpose();
    let (key, tenant_no): (i64, i64) = (get!(0), get!(33));
    let key = RunKey::from_i64(key);
    if tenant_no != i64::from(key.tenant_no()) {
        return Err(damaged(
            "runs.tenant_no",
            format!("tenant {tenant_no}, the key says {}", key.tenant_no()),
        ));
    }
    let status: String = get!(14);
    let execution_status: String = get!(15);
    let root_hash: Option<Vec<u8>> = get!(26);
    Ok(RunRow {
        key,
        started_leaf: LeafKey::from_i64(get!(2)),
        state: RunState {
            run_id: get!(1),
            trace_id: get!(3),
            correlation_id: get!(4),
            agent_id: get!(5),
            parent_run_id: get!(6),
            source: get!(7),
            is_synthetic: truth("runs.is_synthetic", get!(8))?,
            seed: get!(9),
            plan_hash: get!(10),
            otlp: truth("runs.otlp", get!(11))?,
            started_at: time("runs.started_at", get!(12))?,
            created_at: time("runs.created_at", get!(13))?,
            status: TraceStatus::parse(&status).ok_or_else(|| damaged("runs.status", &status))?,
            execution_status: ExecutionStatus::parse(&execution_status)
                .ok_or_else(|| damaged("runs.execution_status", &execution_status))?,
            completed_at: time_opt("runs.completed_at", get!(16))?,
            provider: get!(17),
            model: get!(18),
            input_tokens: get!(19),
            output_tokens: get!(20),
            cost: NanoCents::new(get!(21)),
            total_steps: as_u32("runs.total_steps", get!(22))?,
            success_count: as_u32("runs.success_count", get!(23))?,
            failure_count: as_u32("runs.failure_count", get!(24))?,
            duration_micros: get!(25),
            root_hash: root_hash
                .map(|hash| {
                    hash.try_into()
                        .map_err(|_| damaged("runs.root_hash", "not 32 bytes"))
                })
                .transpose()?,
            late_count: as_u32("runs.late_count", get!(27))?,
            record_count: as_u64("runs.record_count", get!(28))?,
            last_recorded_at: time("runs.last_recorded_at", get!(29))?,
            first_inference_at: time_opt("runs.first_inference_at", get!(30))?,
            declared: Declared::from_bits(get!(31)),
            settled: truth("runs.settled", get!(32))?,
        },
    })
}

/// Leaves out runs whose start is erased, which their empty plan hash tells: what it said is a placeholder now. The literal,
/// the plan of nothing, lets the partial index find these few, so that the list's own index is enough for the others.
const START_IS_THERE: &str = "run NOT IN (SELECT run FROM runs WHERE tenant_no = ? AND plan_hash = '' \
     AND plan_hash <> '4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945')";

/// The conditions of a query and what they are bound to.
fn conditions(query: &RunQuery, end: Option<RunKey>) -> (String, Vec<Value>) {
    let mut sql = String::from("tenant_no = ?");
    let mut values = vec![Value::from(query.tenant_no)];
    let mut add = |condition: &str, value: Value| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    // Of several filters the one that lets through least should choose the index; a plus keeps the others out
    // of the choice. There are many models, few providers and five states.
    let by_model = query.model.is_some();
    for (column, value) in [
        ("run_id = ?", &query.run_id),
        (
            if by_model || query.provider.is_some() {
                "+execution_status = ?"
            } else {
                "execution_status = ?"
            },
            &query.execution_status,
        ),
        ("status = ?", &query.status),
        ("agent_id = ?", &query.agent_id),
        ("plan_hash <> '' AND plan_hash = ?", &query.plan_hash),
    ] {
        if let Some(value) = value {
            add(column, Value::from(value.clone()));
        }
    }
    let provider = if by_model { "+provider" } else { "provider" };
    for (column, value) in [(provider, &query.provider), ("model", &query.model)] {
        match value.as_deref() {
            // What an answer shows as `unknown` is absent here.
            Some("unknown") => add(
                &format!("({column} IS NULL OR {column} = ?)"),
                Value::from("unknown".to_owned()),
            ),
            Some(value) => add(&format!("{column} = ?"), Value::from(value.to_owned())),
            None => {}
        }
    }
    match query.is_synthetic {
        Some(true) => add("is_synthetic = 1 AND 1 = ?", Value::from(1)),
        Some(false) => {
            add("is_synthetic = ?", Value::from(0));
            add(START_IS_THERE, Value::from(query.tenant_no));
        }
        None => {}
    }
    if let Some(hash) = query.root_hash {
        add("root_hash = ?", Value::from(hash.to_vec()));
    }
    if let Some(seed) = query.seed {
        // The literal lets the partial index serve every other seed. Runs whose start is erased have 0.
        add(
            match seed {
                42 => "seed = ?",
                0 => "seed <> 42 AND plan_hash <> '' AND seed = ?",
                _ => "seed <> 42 AND seed = ?",
            },
            Value::from(seed),
        );
    }
    if let Some(at) = query.created_after {
        add("created_at >= ?", Value::from(at.as_micros()));
    }
    if let Some(at) = query.created_before {
        add("created_at < ?", Value::from(at.as_micros()));
    }
    if let Some(end) = end {
        // Every index ends with the run's key, so this needs no look into the table.
        add("run < ?", Value::from(end.as_i64()));
    }
    if let Some((at, key)) = query.after {
        add("(created_at, run) < (?", Value::from(at.as_micros()));
        sql.push_str(", ?)");
        values.push(Value::from(key.as_i64()));
    }
    (sql, values)
}

/// The key past the last run that a query's `as_of` lets in; `None`: all are.
fn end_of(connection: &Connection, query: &RunQuery) -> Result<Option<RunKey>, StoreError> {
    let Some(as_of) = query.as_of else { return Ok(None) };
    let total = total(connection, query.tenant_no, Some(as_of))?;
    Ok(Some(RunKey::new(query.tenant_no, total)))
}

pub(super) fn list(connection: &Connection, query: &RunQuery) -> Result<RunPage, StoreError> {
    let (conditions, mut values) = conditions(query, end_of(connection, query)?);
    let sql = format!(
        "SELECT {COLUMNS} FROM runs WHERE {conditions} ORDER BY created_at DESC, run DESC LIMIT ? OFFSET ?"
    );
    values.push(Value::from(i64::from(query.limit) + 1));
    values.push(Value::from(query.offset));
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    let mut found = statement.query(params_from_iter(values)).map_err(unavailable)?;
    let mut page = RunPage::default();
    while let Some(row) = found.next().map_err(unavailable)? {
        if u32::try_from(page.rows.len()) == Ok(query.limit) {
            page.has_more = true;
            break;
        }
        page.rows.push(from_row(row)?);
    }
    Ok(page)
}

pub(super) fn count(connection: &Connection, query: &RunQuery, max: u32) -> Result<u32, StoreError> {
    let whole = RunQuery {
        after: None,
        ..query.clone()
    };
    let (conditions, mut values) = conditions(&whole, end_of(connection, query)?);
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM runs WHERE {conditions} LIMIT ?)");
    values.push(Value::from(max));
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_row(params_from_iter(values), |row| row.get(0)))
        .map_err(unavailable)
}

/// Runs are numbered without gap, so the total is the last one's ordinal and one; with `as_of`, found by halving.
pub(super) fn total(
    connection: &Connection,
    tenant_no: u32,
    as_of: Option<LeafKey>,
) -> Result<u64, StoreError> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(run) FROM runs WHERE run BETWEEN ?1 AND ?2")
        .and_then(|mut statement| {
            let (first, end) = tenant_range(tenant_no);
            statement.query_row((first, end), |row| row.get(0))
        })
        .map_err(unavailable)?;
    let Some(last) = last else { return Ok(0) };
    let total = RunKey::from_i64(last).ordinal() + 1;
    let Some(as_of) = as_of else { return Ok(total) };
    let mut started_leaf = connection
        .prepare_cached("SELECT started_leaf FROM runs WHERE run = ?1")
        .map_err(unavailable)?;
    let mut is_before = |ordinal: u64| -> Result<bool, StoreError> {
        let leaf: i64 = started_leaf
            .query_row([RunKey::new(tenant_no, ordinal).as_i64()], |row| row.get(0))
            .map_err(unavailable)?;
        Ok(leaf < as_of.as_i64())
    };
    // Most ask for the present.
    if is_before(total - 1)? {
        return Ok(total);
    }
    let (mut low, mut high) = (0, total);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The first and last key a tenant's runs can have.
pub(super) fn tenant_range(tenant_no: u32) -> (i64, i64) {
    (
        RunKey::new(tenant_no, 0).as_i64(),
        RunKey::new(tenant_no, u64::MAX).as_i64(),
    )
}
