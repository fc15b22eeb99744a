-- measure_stored.sql($1 day): add what each repo has in the vault to its month, unless that day is counted already.
-- Sizes of manifests that are not sealed are in no row: 1,000 bytes each and 200 for each change come near them.
with counted as (
  insert into measured_month (repo_id, month, days, last_day)
  select id, date_trunc('month', $1::date)::date, 1, $1::date from repo
  on conflict (repo_id, month) do update set days = measured_month.days + 1, last_day = excluded.last_day
  where measured_month.last_day < excluded.last_day
  returning repo_id
), sizes as (
  select part.repo_id, case when replaced_at is null then 'parts' else 'replaced' end as kind,
    coalesce(storage_class, 'STANDARD') as class, coalesce(sealed_bytes, bytes) as bytes
  from part join counted using (repo_id) where deleted_at is null
  union all
  select part.repo_id, case when replaced_at is null then 'indexes' else 'replaced' end, 'STANDARD', coalesce(sealed_index_bytes, index_bytes)
  from part join counted using (repo_id) where deleted_at is null
  union all
  select snapshot.repo_id, 'manifests', 'STANDARD', coalesce(sealed_manifest_bytes, 1000 + 200 * changes_count)
  from snapshot join counted using (repo_id)
)
insert into stored_month (repo_id, month, kind, class, byte_days)
select repo_id, date_trunc('month', $1::date)::date, kind, class, sum(bytes)
from sizes where bytes > 0 group by repo_id, kind, class
on conflict (repo_id, month, kind, class) do update set byte_days = stored_month.byte_days + excluded.byte_days
