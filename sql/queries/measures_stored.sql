-- measures_stored.sql: what is in the vault, of all repos together.
select
  coalesce(sum(bytes) filter (where replaced_at is null), 0)::bigint as live,
  coalesce(sum(bytes) filter (where replaced_at is not null and deleted_at is null), 0)::bigint as replaced,
  (select count(*) from snapshot) as snapshots
from part
