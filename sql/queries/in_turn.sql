-- in_turn.sql($1 repo_id, $2 owner, $3 fencing number): the latest snapshot, for whoever has the repo's turn, which nobody
-- can take over before the transaction ends; no row: somebody has.
select latest.number, latest.manifest_sha256
from lease
left join lateral (
  select number, manifest_sha256 from snapshot where repo_id = $1 order by number desc limit 1
) latest on true
where lease.repo_id = $1 and lease.owner = $2 and lease.fence = $3
for update of lease
