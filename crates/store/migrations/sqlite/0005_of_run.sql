-- What a run ran in, and its traces, are found by run: a run may have a million records, of which few say either.
-- Both grow at their end, as runs do. 6 is evidence.environment.

CREATE INDEX traces_by_run ON traces (run);
CREATE INDEX run_records_environment ON run_records (run, run_seq) WHERE kind = 6;
