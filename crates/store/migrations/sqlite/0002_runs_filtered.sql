-- Filters of lists come together: what stands in the index is compared there, not looked up in the table.
-- run stands before the rest, so that lists still come in the order of (created_at, run) without sorting.

DROP INDEX runs_by_created;
DROP INDEX runs_by_provider;
DROP INDEX runs_by_model;
DROP INDEX runs_by_execution_status;

CREATE INDEX runs_by_created ON runs (tenant_no, created_at, run, is_synthetic);
CREATE INDEX runs_by_provider ON runs (tenant_no, provider, created_at, run, execution_status, is_synthetic);
CREATE INDEX runs_by_model ON runs (tenant_no, model, created_at, run, execution_status, provider, is_synthetic);
CREATE INDEX runs_by_execution_status ON runs (tenant_no, execution_status, created_at, run, is_synthetic);

-- Silent runs are found by when they began, which no record changes: a run that is silent since a time began before it.
DROP INDEX runs_unsettled;

CREATE INDEX runs_unsettled ON runs (status, created_at) WHERE settled = 0;
