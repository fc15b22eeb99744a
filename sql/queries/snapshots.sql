-- snapshots.sql($1 repo_id, ...): snapshots with the parts they were born with; the caller adds which and in what order.
select
  snapshot.*,
  part.first_snapshot, part.last_snapshot, part.bytes, part.sha256, part.header_bytes, part.entries,
  part.cuttable, part.complete, part.index_bytes, part.index_sha256,
  part.sealed_bytes, part.sealed_sha256, part.sealed_index_bytes, part.sealed_index_sha256
from snapshot left join part on part.key = snapshot.bundle_key
where snapshot.repo_id = $1
