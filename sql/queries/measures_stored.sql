-- measures_stored.sql($1 how long a silent worker counts as alive, $2 how long an outage counts without anybody who
-- looks after it, $3 now): what is in the vault, of all repos together, and how the installation is.
select
  coalesce(sum(bytes) filter (where replaced_at is null), 0)::bigint as live,
  coalesce(sum(bytes) filter (where replaced_at is not null and deleted_at is null), 0)::bigint as replaced,
  (select count(*) from snapshot) as snapshots,
  (select count(*) from lost_push) as lost,
  (select count(*) from worker where beat_at > clock_timestamp() - $1::interval) as workers,
  array(
    select distinct origin from outage where ended_at is null and asked_at > clock_timestamp() - $2::interval
  ) as away,
  coalesce((select unknown_repos from vault_identity), 0) as unknown,
  (select extract(epoch from max(taken_at))::float8 from state_export where state = 'stored') as exported,
  (select count(*) from repo where archived_at is null and not exists (select from drill where repo_id = repo.id)) as undrilled,
  (select count(*) from repo where drill_at <= $3::timestamptz) as drills_due,
  (
    select extract(epoch from min(last))::float8
    from (select max(finished_at) as last from drill join repo on repo.id = repo_id group by repo_id) as each
  ) as oldest_drill,
  (
    select extract(epoch from finished_at)::float8 from drill where cardinality(problems) = 0
    order by finished_at desc limit 1
  ) as passed,
  (
    select extract(epoch from finished_at)::float8 from drill where cardinality(problems) > 0
    order by finished_at desc limit 1
  ) as failed
from part
