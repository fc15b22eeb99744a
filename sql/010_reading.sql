-- 010_reading.sql: what pages read by, where names and moves are many.

-- The names of a repo in their order, a page at a time. Only their beginnings, as a name can be longer than an index entry may be.
create index ref_by_name on ref (repo_id, substring(name from 1 for 200));

-- The moves of one ref, in their order: its lane.
create index ref_change_of_ref on ref_change (ref_id, snapshot, position);
