// Package web is the pages: server-rendered, live, usable with a keyboard and on a phone.
//
// Words: a room is one page with its template in pages/; a view is the plain data a template draws; a cell is one
// instance on the fleet page. A page is redrawn when the doorbell rings: the browser fetches it again and replaces
// the parts that carry a data-key and differ.
//
// Invariant: pages only show. Whatever changes something goes through the API, with its permissions; and a number
// that was not measured is shown as unknown.
package web
