-- end_stays.sql($1 snapshot, $2 ref ids, $3 targets): these refs left these targets in this snapshot.
update ref_stay set last_snapshot = $1::int - 1
from unnest($2::bigint[], $3::bytea[]) as given (ref_id, target)
where ref_stay.ref_id = given.ref_id and ref_stay.last_snapshot is null and ref_stay.target = given.target
