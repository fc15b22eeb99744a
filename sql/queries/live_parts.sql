-- live_parts.sql($1 repo_id): the parts that the pack log is stored in now, in log order, with their inner boundaries.
select part.*, inside.*
from part
cross join lateral (
  select
    array_agg(number::int order by number) as segment_snapshots,
    array_agg(segment_entries::bigint order by number) as segment_entries,
    array_agg(segment_bytes::bigint order by number) as segment_bytes,
    array_agg(segment_sha256::text order by number) as segment_sha256
  from snapshot
  where part.cuttable
    and snapshot.repo_id = part.repo_id and snapshot.epoch = part.epoch
    and snapshot.number between part.first_snapshot and part.last_snapshot
    and snapshot.bundle_key is not null
) inside
where part.repo_id = $1 and part.replaced_at is null
order by part.epoch, part.first_snapshot
