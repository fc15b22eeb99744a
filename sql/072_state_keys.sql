-- 072_state_keys.sql: which key an export of the state needs, so that nobody throws away the one that alone opens it.

-- The id of the key that opens the export and everything sealed that is in it. Null: not known, as of one that was made
-- before this column or by another database, or one that holds what older keys sealed.
alter table state_export add column opens_with text;
