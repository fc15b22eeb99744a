-- begin_stays.sql($1 snapshot, $2 ref ids, $3 targets): these refs came to these targets in this snapshot.
insert into ref_stay (ref_id, first_snapshot, target)
select ref_id, $1::int, target from unnest($2::bigint[], $3::bytea[]) as given (ref_id, target)
