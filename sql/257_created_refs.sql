-- 257_created_refs.sql: the refs that were created in a window of time are found by index.
create index ref_change_created on ref_change (repo_id, snapshot) where kind = 'created';
