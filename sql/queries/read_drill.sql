-- read_drill.sql($1 repo, the columns of a drill): out of a note of the vault; what is known stays.
insert into drill (repo_id, noted, snapshot, refs, bytes, seconds, problems, finished_at, moment)
select $1, true, $2::int, $3, $4, $5, $6, $7::timestamptz, $8
where not exists (select from drill where repo_id = $1 and snapshot = $2::int and finished_at = $7::timestamptz)
